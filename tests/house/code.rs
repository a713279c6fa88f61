//! Reads Rust far enough to tell code from comments, strings and tests.

/// Blanks comments and the insides of strings and characters, so that what is left is code.
pub fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    while at < chars.len() {
        let rest = &chars[at..];
        let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let skipped = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['r', '"' | '#', ..] if !after_word => raw_string(rest),
            ['b', 'r', '"' | '#', ..] if !after_word => 1 + raw_string(&rest[1..]),
            ['"', ..] => quoted(rest, '"'),
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted(rest, '\''),
            _ => 0,
        };
        if skipped == 0 {
            code.push(chars[at]);
        }
        code.extend(rest[..skipped].iter().map(|c| blank(*c)));
        at += skipped.max(1);
    }
    code
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0; // a raw identifier
    }
    let close: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let inner: String = rest[2 + hashes..].iter().collect();
    let length = inner.split(&close).next().unwrap().chars().count();
    (2 + hashes + length + close.len()).min(rest.len())
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Blanks every item under `#[cfg(test)]`.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut left = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        let (before, item) = rest.split_at(start);
        let mut depth = 0;
        let end = item.char_indices().skip(MARK.len()).find_map(|(at, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (depth == 0 && matches!(c, '}' | ';')).then_some(at + 1)
        });
        let (item, after) = item.split_at(end.unwrap_or(item.len()));
        left.push_str(before);
        left.extend(item.chars().filter(|c| *c == '\n'));
        rest = after;
    }
    left + rest
}

/// Every place where `word` stands as a whole word.
pub fn whole_words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !line[..*at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

/// Paths below `crate::` that the code names: of `use crate::{a, b::c}` each.
pub fn crate_paths(code: &str) -> Vec<String> {
    let path = |text: &str| {
        let path: String =
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
        path.trim_end_matches(':').to_owned()
    };
    let mut paths = Vec::new();
    for at in code.match_indices("crate::").map(|(at, found)| at + found.len()) {
        let Some(group) = code[at..].strip_prefix('{') else {
            paths.push(path(&code[at..]));
            continue;
        };
        let mut depth = 0;
        let mut item = 0;
        for (at, c) in group.char_indices() {
            if depth == 0 && matches!(c, ',' | '}') {
                paths.push(path(&group[item..at]));
                item = at + 1;
            }
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth < 0 {
                break;
            }
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

#[test]
fn the_guard_reads_rust_as_the_compiler_does() {
    let code =
        code_of("a('\"', \"crate::x\\\"\"); // crate::y\nr#\"crate::z\"# /* /* */ crate::w */ &'a b'\\''");
    assert_eq!(code.matches("crate").count(), 0, "{code}");
    assert!(code.contains("&'a b") && code.starts_with("a("), "{code}");
    assert_eq!(
        crate_paths("use crate::{a::{b, c}, d}; crate::e::F::g()"),
        ["a::", "d", "e::F::g"].map(|p| p.trim_end_matches(':'))
    );
    let code = without_tests("x\n#[cfg(test)]\nmod tests { fn t() { { } } }\ny #[cfg(test)] mod tests; z");
    assert_eq!(code.split_whitespace().collect::<String>(), "xyz", "{code}");
}
