//! `postconf` changes main.cf and master.cf: `-e`, `-X`, `-#`, alone and with `-M`, `-F`, `-P`.

use config::edit::{Change, edit_main};
use config::master_edit::{Action, Pattern, Request, edit_master};
use config::show;

use super::options::Options;
use super::{Fatal, fatal, warn};

impl Options {
    pub fn edit(&self, flag: char) -> Result<(), Fatal> {
        if self.arguments.is_empty() {
            return fatal(if flag == 'e' {
                "-e requires name=value argument"
            } else {
                "missing service argument"
            });
        }
        if let Some(bad) = self
            .arguments
            .iter()
            .find_map(|argument| unfit_for_edit(argument))
        {
            return fatal(bad);
        }
        let warnings = if ['M', 'F', 'P'].into_iter().any(|mode| self.has(mode)) {
            let requests = self
                .arguments
                .iter()
                .map(|a| self.master_request(flag, a))
                .collect::<Result<Vec<_>, _>>()?;
            edit_master(&self.directory().join("master.cf"), &requests)?
        } else {
            edit_main(&self.directory().join("main.cf"), &self.main_change(flag)?)?
        };
        warnings.iter().for_each(|text| warn(text));
        Ok(())
    }

    fn main_change(&self, flag: char) -> Result<Change, Fatal> {
        if flag == 'e' {
            return Ok(Change::Set(
                self.arguments
                    .iter()
                    .map(|a| setting(a))
                    .collect::<Result<_, _>>()?,
            ));
        }
        if self.arguments.iter().any(|name| name.trim().is_empty()) {
            return fatal("-X or -# requires non-blank parameter names");
        }
        let names = self
            .arguments
            .iter()
            .map(|name| name.trim_start().to_owned())
            .collect();
        Ok(if flag == 'X' {
            Change::Remove(names)
        } else {
            Change::CommentOut(names)
        })
    }

    fn master_request(&self, flag: char, argument: &str) -> Result<Request, Fatal> {
        let (target, value) = match flag {
            'e' => setting(argument)?,
            _ => (argument.to_owned(), String::new()),
        };
        let parts = split_request(&target);
        let (wanted, shape) = match (self.has('M'), self.has('F')) {
            (true, _) => (2, "-Me, -MX or -M# requires service_name/type"),
            (_, true) => (3, "-Fe or -FX requires service_name/type/field_name"),
            _ => (3, "-Pe or -PX requires service_name/type/parameter"),
        };
        if parts.len() != wanted {
            return fatal(shape);
        }
        let action = if self.has('M') {
            match flag {
                'e' => Action::Replace(value),
                'X' => Action::Remove,
                _ => Action::CommentOut,
            }
        } else if self.has('F') {
            field_action(&parts[2], value)?
        } else {
            parameter_action(flag, &parts[2], value)?
        };
        let pattern = Pattern {
            name: parts[0].clone(),
            kind: parts[1].clone(),
        };
        Ok(Request {
            text: argument.to_owned(),
            pattern,
            action,
        })
    }
}

fn field_action(name: &str, value: String) -> Result<Action, Fatal> {
    if name == "*" {
        return fatal("-Fe does not accept wild-card field name");
    }
    let at = field_position(name)?;
    if at + 1 < show::FIELD_NAMES.len() && value.contains([' ', '\t']) {
        return fatal("-Fe does not accept whitespace in non-command field");
    }
    Ok(Action::Field(at, value))
}

fn parameter_action(flag: char, name: &str, value: String) -> Result<Action, Fatal> {
    if name == "*" {
        return fatal("-Pe does not accept wild-card parameter name");
    }
    if flag == 'X' {
        return Ok(Action::RemoveOverride(name.to_owned()));
    }
    if value.contains([' ', '\t']) {
        return fatal("-Pe does not accept whitespace in parameter value");
    }
    Ok(Action::SetOverride(name.to_owned(), value))
}

fn unfit_for_edit(argument: &str) -> Option<&'static str> {
    if argument.contains('\n') {
        Some("-e, -X, or -# accepts no multi-line input")
    } else if argument.trim_start().starts_with('#') {
        Some("-e, -X, or -# accepts no comment input")
    } else {
        None
    }
}

pub(super) fn field_position(name: &str) -> Result<usize, Fatal> {
    match show::FIELD_NAMES.iter().position(|field| *field == name) {
        Some(at) => Ok(at),
        None => fatal(format!("invalid service attribute name: \"{name}\"")),
    }
}

/// Splits at `/`; empty parts do not count.
pub(super) fn split_request(request: &str) -> Vec<String> {
    request
        .split('/')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

fn setting(text: &str) -> Result<(String, String), Fatal> {
    match config::split_name_value(text) {
        Ok((name, value)) => Ok((name.to_owned(), value.to_owned())),
        Err(problem) => fatal(format!("{problem}: \"{text}\"")),
    }
}
