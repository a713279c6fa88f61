//! `.env` in the working directory.

use std::collections::HashMap;

/// The variables of `.env` in the working directory; none where there is no such file.
pub fn read() -> HashMap<String, String> {
    match dotenvy::from_path_iter(".env") {
        Ok(pairs) => pairs
            .filter_map(|pair| match pair {
                Ok(pair) => Some(pair),
                Err(error) => {
                    eprintln!("switchboard: a line of .env cannot be read and is left out: {error}");
                    None
                }
            })
            .collect(),
        Err(error) if error.not_found() => HashMap::new(),
        Err(error) => {
            eprintln!("switchboard: .env cannot be read: {error}");
            HashMap::new()
        }
    }
}
