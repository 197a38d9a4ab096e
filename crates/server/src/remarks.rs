//! What the log says at the start about services: once, also where several have the same setting.

/// Remarks in the order in which they came up, each with the services that it is about.
#[derive(Default)]
pub(crate) struct Remarks(Vec<(String, Vec<String>)>);

impl Remarks {
    pub fn add(&mut self, service: &str, text: impl Into<String>) {
        let text = text.into();
        match self.0.iter_mut().find(|(known, _)| *known == text) {
            Some((_, services)) => services.push(service.to_owned()),
            None => self.0.push((text, vec![service.to_owned()])),
        }
    }

    /// One line each.
    pub fn lines(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|(text, services)| {
            let plural = if services.len() > 1 { "s" } else { "" };
            format!("service{plural} {}: {text}", services.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once() {
        let mut remarks = Remarks::default();
        for (service, text) in [("smtp", "a"), ("smtp", "b"), ("smtps", "a")] {
            remarks.add(service, text);
        }
        let lines: Vec<String> = remarks.lines().collect();
        assert_eq!(lines, ["services smtp, smtps: a", "service smtp: b"]);
    }
}
