//! The settings of the local(8) agent, read from main.cf.

use std::sync::Arc;
use std::time::Duration;

use config::{Config, ConfigError};
use mail::address::ExtensionRules;
use tables::{TableList, Tables};

use super::Account;
use crate::command;
use crate::mailbox::mbox::Rules;

/// The agent behind a `local` service.
#[derive(Clone)]
pub struct Local(Arc<Settings>);

impl std::ops::Deref for Local {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

/// The agent's settings, with the names of main.cf.
pub struct Settings {
    pub(super) alias_maps: TableList,
    pub(super) extensions: ExtensionRules,
    pub(super) propagate: Kinds,
    pub(super) commands_from: Kinds,
    pub(super) files_from: Kinds,
    pub(super) prepend: Prepend,
    pub(super) original_recipient: bool,
    pub(super) frozen_delivered_to: bool,
    pub(super) expand_owner_alias: bool,
    pub(super) reset_owner_alias: bool,
    pub(super) require_home: bool,
    pub(super) forward_path: Vec<String>,
    pub(super) forward_filter: String,
    pub(super) command_filter: String,
    pub(super) directory_filter: String,
    pub(super) mailbox_transport: String,
    pub(super) mailbox_transport_maps: TableList,
    pub(super) fallback_transport: String,
    pub(super) fallback_transport_maps: TableList,
    pub(super) mailbox_command: String,
    pub(super) mailbox_command_maps: TableList,
    pub(super) home_mailbox: String,
    pub(super) spool: String,
    pub(super) luser_relay: String,
    pub(super) shell: Vec<String>,
    pub(super) execution_directory: String,
    pub(super) queue_directory: String,
    pub(super) time_limit: Duration,
    pub(super) environment: Vec<(String, String)>,
    /// The account of `default_privs`, or why there is none to use.
    pub(super) default_privs: Result<Account, String>,
    pub(super) hostname: String,
    pub(super) mailbox_rules: Rules,
    pub(super) file_rules: Rules,
}

/// In which expansions something holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    pub alias: bool,
    pub forward: bool,
    pub include: bool,
}

/// `prepend_delivered_header`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Prepend {
    pub command: bool,
    pub file: bool,
    pub forward: bool,
}

impl Local {
    /// Reads its parameters and opens its tables. A table that cannot be opened defers the mail that needs it.
    pub fn new(service: &str, config: &Config, tables: &Tables) -> Result<Local, ConfigError> {
        let open = |name: &str| -> Result<TableList, ConfigError> {
            Ok(tables.open_list_lenient(&config.string(name)?))
        };
        let kinds = |name: &str| -> Result<Kinds, ConfigError> {
            let list = config.list(name)?;
            let has = |word: &str| list.iter().any(|item| item.eq_ignore_ascii_case(word));
            Ok(Kinds {
                alias: has("alias"),
                forward: has("forward"),
                include: has("include"),
            })
        };
        let prepend = config.list("prepend_delivered_header")?;
        let prepends = |word: &str| prepend.iter().any(|item| item.eq_ignore_ascii_case(word));
        let own = format!("{service}_time_limit");
        let time_limit = match config.raw(&own) {
            Some(_) => config.time(&own)?,
            None => config.time("command_time_limit")?,
        };
        let mailbox_rules = Rules::read(config, "mailbox_delivery_lock", "mailbox_size_limit")?;
        let mut file_rules = mailbox_rules.clone();
        file_rules.locking.dotlock_may_fail = true;
        file_rules.strict_ownership = false;
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Ok(Local(Arc::new(Settings {
            alias_maps: tables.open_list_lenient(&without_nis(&config.string("alias_maps")?)),
            extensions: ExtensionRules {
                delimiters: config.string("recipient_delimiter")?,
                owner_request_special: config.bool("owner_request_special")?,
                double_bounce: config.string("double_bounce_sender")?,
            },
            propagate: kinds("propagate_unmatched_extensions")?,
            commands_from: kinds("allow_mail_to_commands")?,
            files_from: kinds("allow_mail_to_files")?,
            prepend: Prepend {
                command: prepends("command"),
                file: prepends("file"),
                forward: prepends("forward"),
            },
            original_recipient: config.bool("enable_original_recipient")?,
            frozen_delivered_to: config.bool("frozen_delivered_to")?,
            expand_owner_alias: config.bool("expand_owner_alias")?,
            reset_owner_alias: config.bool("reset_owner_alias")?,
            require_home: config.bool("require_home_directory")?,
            forward_path: config::split_list(&config.string("forward_path")?),
            forward_filter: config.string("forward_expansion_filter")?,
            command_filter: config.string("command_expansion_filter")?,
            directory_filter: config.string("execution_directory_expansion_filter")?,
            mailbox_transport: config.string("mailbox_transport")?,
            mailbox_transport_maps: open("mailbox_transport_maps")?,
            fallback_transport: config.string("fallback_transport")?,
            fallback_transport_maps: open("fallback_transport_maps")?,
            mailbox_command: config.string("mailbox_command")?,
            mailbox_command_maps: open("mailbox_command_maps")?,
            home_mailbox: config.string("home_mailbox")?,
            spool: config.string("mail_spool_directory")?,
            luser_relay: config.string("luser_relay")?,
            shell: words(&config.string("local_command_shell")?),
            execution_directory: config.string("command_execution_directory")?,
            queue_directory: config.string("queue_directory")?,
            time_limit,
            environment: command::environment(config)?,
            default_privs: default_privs(&config.string("default_privs")?),
            hostname: config.string("myhostname")?,
            mailbox_rules,
            file_rules,
        })))
    }
}

/// NIS is no longer anywhere, but stands in the default of `alias_maps`, as in Postfix's own.
fn without_nis(specs: &str) -> String {
    let specs = tables::split_specs(specs);
    let kept: Vec<&str> = specs
        .iter()
        .map(String::as_str)
        .filter(|spec| !spec.starts_with("nis:"))
        .collect();
    kept.join(", ")
}

fn default_privs(name: &str) -> Result<Account, String> {
    match Account::named(name) {
        Ok(Some(account)) if account.owner.uid == 0 || account.owner.gid == 0 => Err(format!(
            "default_privs = {name}: commands never run as root; name another user"
        )),
        Ok(Some(account)) => Ok(account),
        Ok(None) => Err(format!(
            "default_privs = {name}: there is no such user; name one of this machine"
        )),
        Err(error) => Err(format!("default_privs = {name}: {error}")),
    }
}
