//! `switchboard check`: every setting as understood, and where it came from.

use serde::Serialize;

use super::{Failure, Outcome, columns, print};
use crate::logging::{printable, say};
use crate::settings::Settings;
use crate::settings::read::{Reader, Source};
use crate::settings::table::{HIDDEN, SETTINGS};

/// What was asked for.
#[derive(Debug, Default)]
pub struct Check {
    /// For machines.
    pub json: bool,
}

#[derive(Serialize)]
struct Row {
    flag: String,
    env: &'static str,
    value: String,
    source: String,
}

#[derive(Serialize)]
struct Report {
    settings: Vec<Row>,
    mistakes: Vec<String>,
    warnings: Vec<String>,
}

/// Prints the settings, what is off with them, and what they leave open.
///
/// # Errors
/// Where a node would not start with them.
pub fn run(mut reader: Reader, check: &Check) -> Outcome {
    let settings = Settings::understand(&mut reader);
    if let Some(settings) = &settings {
        settings.tell(&mut reader);
    }
    let report = Report {
        settings: SETTINGS
            .iter()
            .filter(|setting| setting.heading != HIDDEN || reader.source(setting.flag) != Source::Default)
            .map(|setting| Row {
                flag: format!("--{}", setting.flag),
                env: setting.env,
                value: reader.shown(setting),
                source: reader.source(setting.flag).to_string(),
            })
            .collect(),
        mistakes: reader.mistakes.iter().map(|mistake| mistake.told.clone()).collect(),
        warnings: settings.as_ref().map(warnings).unwrap_or_default(),
    };
    let printed = print(&if check.json {
        serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
    } else {
        table(&report.settings)
    });
    for warning in &report.warnings {
        say(warning);
    }
    if settings.is_some() {
        return printed;
    }
    Err(Failure::Usage(report.mistakes.join("\n")))
}

fn warnings(settings: &Settings) -> Vec<String> {
    let open = settings.openings().into_iter().map(|opening| format!("open: {opening}"));
    open.chain(settings.crowding()).chain(settings.unused()).collect()
}

fn table(rows: &[Row]) -> String {
    let head = ["FLAG", "ENVIRONMENT", "FROM", "VALUE"].map(str::to_owned);
    let cells = |row: &Row| [row.flag.clone(), row.env.to_owned(), row.source.clone(), printable(&row.value)];
    columns(&[head].into_iter().chain(rows.iter().map(cells)).collect::<Vec<_>>())
}
