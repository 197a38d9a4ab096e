//! Dates in message headers (RFC 5322 section 3.3).

use std::time::SystemTime;

use chrono::{DateTime, Local};

/// `time` in the local zone, as Postfix writes it: `Sun, 22 Nov 2026 15:28:17 +0000 (UTC)`.
pub fn rfc5322(time: SystemTime) -> String {
    let local: DateTime<Local> = time.into();
    let stamp = local.format("%a, %e %b %Y %H:%M:%S %z");
    match zone_name(&local) {
        Some(name) => format!("{stamp} ({name})"),
        None => stamp.to_string(),
    }
}

/// The zone's abbreviation. chrono knows offsets only, so this is for the one zone whose name
/// follows from its offset.
fn zone_name(local: &DateTime<Local>) -> Option<&'static str> {
    (local.offset().local_minus_utc() == 0).then_some("UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn has_the_form_of_rfc_5322() {
        let text = rfc5322(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_361_297));
        let day = text.split(", ").nth(1).expect("a weekday and a comma");
        assert!(day.contains(" Nov 2026 "), "{text}");
    }
}
