//! `-s`: everything that is in a table.

use std::process::ExitCode;

use super::maps::{Maps, warn_of_empty};
use super::{Fatal, print_all};

/// Lists the first table, as Postfix does.
pub(super) fn list(maps: &Maps) -> Result<ExitCode, Fatal> {
    let Some(spec) = maps.specs.first() else {
        return Ok(ExitCode::FAILURE);
    };
    match spec.split(':').next() {
        Some("proxy") => {
            let text = "can't sequence maps via the proxy service";
            return Err(Fatal(text.to_string()));
        }
        Some("fail") => {
            return Err(Fatal(format!(
                "table {spec}: sequence error: Application error"
            )));
        }
        _ => {}
    }
    let Some(entries) = maps.table(0)?.entries()? else {
        return Err(Fatal(format!(
            "table {spec}: sequence operation is not supported"
        )));
    };
    let mut lines = Vec::new();
    for (key, value) in entries {
        if key.is_empty() {
            tracing::warn!("table {spec}: empty lookup key value is not allowed");
        }
        if let Some(value) = maps.decoded(spec, &key, value) {
            warn_of_empty(spec, &key, &value);
            for part in [&key, maps.separator, &value, b"\n"] {
                lines.extend_from_slice(part);
            }
        }
    }
    print_all(&lines)?;
    Ok(ExitCode::SUCCESS)
}
