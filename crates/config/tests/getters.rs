//! Settings as the rest of the system reads them: expanded, typed, with defaults.

use postroom_config as config;
use postroom_config::{Config, Environment};
use std::time::Duration;

const MAIN: &str = "\
compatibility_level = 3.6
myhostname = mx.shop.example
mydestination = $myhostname, localhost.$mydomain,
  localhost
maximal_queue_lifetime = 2
smtpd_timeout = 7x
smtpd_delay_reject = maybe
message_size_limit = 10M
loop_a = $loop_b
loop_b = x$loop_a
mine = hello
bad_syntax = ${mine!x}
";

fn config() -> Config {
    Config::from_text(MAIN, "").unwrap()
}

#[test]
fn strings_are_expanded_and_defaulted() {
    for (name, expected) in [
        (
            "mydestination",
            "mx.shop.example, localhost.shop.example,  localhost",
        ),
        ("mydomain", "shop.example"),
        ("myorigin", "mx.shop.example"),
        ("relay_domains", ""),
        ("append_dot_mydomain", "no"),
        ("mynetworks", "127.0.0.1/32 [::1]/128"),
        ("virtual_alias_domains", ""),
        ("smtpd_banner", "mx.shop.example ESMTP Postfix"),
        ("dovecot_destination_recipient_limit", "50"),
        ("lmtp_destination_concurrency_limit", "20"),
        ("smtpd_forbid_bare_newline", "normalize"),
        ("postroom_table_connections", "10"),
        ("mine", "hello"),
        ("config_directory", "/etc/postfix"),
    ] {
        assert_eq!(config().string(name).unwrap(), expected, "{name}");
    }
}

#[test]
fn host_name_and_domain_default_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    for (main_cf, hostname, expected) in [
        ("", "vm", ("vm.localdomain", "localdomain")),
        ("", "vm.a.example", ("vm.a.example", "a.example")),
        (
            "mydomain = b.example\n",
            "vm",
            ("vm.b.example", "b.example"),
        ),
        (
            "myhostname = x.c.example\n",
            "vm",
            ("x.c.example", "c.example"),
        ),
        (
            "myhostname = x.$mydomain\nmydomain = d.example\n",
            "vm",
            ("x.d.example", "d.example"),
        ),
    ] {
        std::fs::write(dir.path().join("main.cf"), main_cf).unwrap();
        let config = Config::load(dir.path(), &Environment::fixed(hostname)).unwrap();
        let found = (
            config.string("myhostname").unwrap(),
            config.string("mydomain").unwrap(),
        );
        assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{main_cf}");
    }
}

#[test]
fn a_time_without_a_unit_counts_in_the_unit_of_its_default() {
    let days = |n: u64| Duration::from_secs(n * 86_400);
    assert_eq!(config().time("maximal_queue_lifetime").unwrap(), days(2));
    let with =
        |value: &str| config().with_overrides(&[("smtpd_timeout".to_owned(), value.to_owned())]);
    assert_eq!(
        with("7").time("smtpd_timeout").unwrap(),
        Duration::from_secs(7)
    );
    assert_eq!(
        Config::from_text("", "")
            .unwrap()
            .time("smtpd_timeout")
            .unwrap(),
        Duration::from_secs(300)
    );
    assert_eq!(
        with("7m").time("smtpd_timeout").unwrap(),
        Duration::from_secs(420)
    );
}

#[test]
fn mistakes_name_file_line_parameter_value_and_remedy() {
    let config = config();
    for (error, expected) in [
        (
            config.time("smtpd_timeout").unwrap_err(),
            "main.cf:6: smtpd_timeout = 7x: not a time; write a number and a unit, s m h d or w, as in 30s or 5d; without a unit it counts in s",
        ),
        (
            config.bool("smtpd_delay_reject").unwrap_err(),
            "main.cf:7: smtpd_delay_reject = maybe: not a boolean; write yes or no",
        ),
        (
            config.int("message_size_limit").unwrap_err(),
            "main.cf:8: message_size_limit = 10M: not a number; write a decimal number, without a unit",
        ),
        (
            config.string("loop_a").unwrap_err(),
            "main.cf:9: loop_a = $loop_b: its value refers to itself; break the cycle loop_a -> loop_b -> loop_a",
        ),
        (
            config.string("bad_syntax").unwrap_err(),
            "main.cf:12: bad_syntax = ${mine!x}: attribute name syntax error at: \"...mine>>>!x\"; write $name, ${name} or ${name?{then}:{else}}, and $$ for a dollar sign",
        ),
        (
            config.string("no_such_thing").unwrap_err(),
            "no_such_thing: there is no such parameter; check the spelling, or set it in main.cf",
        ),
        (
            Config::from_text("a = b\n\nnovalue\n", "").unwrap_err(),
            "main.cf:3: missing '=' after attribute name: \"novalue\"; write `name = value`; start a line that continues another with a space, a comment with #",
        ),
    ] {
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(config.check().len(), 3);
}

#[test]
fn later_settings_override_earlier_ones_with_a_warning() {
    let config = Config::from_text("a = 1\na = 2\n  b\n", "").unwrap();
    assert_eq!(config.raw("a"), Some("2  b"));
    assert_eq!(config.origin("a").unwrap().line, 2);
    assert_eq!(
        config.warnings(),
        ["main.cf, line 2: overriding earlier entry: a=1"]
    );
}

#[test]
fn every_default_expands_and_has_its_type() {
    let config = Config::from_text("compatibility_level = 3.6\n", "").unwrap();
    for param in config::params::PARAMS.iter() {
        let value = config.string(param.name).unwrap_or_else(|e| panic!("{e}"));
        match param.kind {
            config::params::Kind::Bool => drop(
                config
                    .bool(param.name)
                    .unwrap_or_else(|e| panic!("{e} {value}")),
            ),
            config::params::Kind::Int => drop(
                config
                    .int(param.name)
                    .unwrap_or_else(|e| panic!("{e} {value}")),
            ),
            config::params::Kind::Time => drop(
                config
                    .time(param.name)
                    .unwrap_or_else(|e| panic!("{e} {value}")),
            ),
            config::params::Kind::Text | config::params::Kind::Raw => {}
        }
    }
}

#[test]
fn table_files_keep_dollars_and_secrets() {
    let path = std::path::Path::new("users.cf");
    let table =
        config::table_file::TableFile::from_text("password = $ecret\nhosts = a,b\n", path).unwrap();
    assert_eq!(table.get("password"), Some("$ecret"));
    assert_eq!(table.list("hosts"), ["a", "b"]);
    let error =
        config::table_file::TableFile::from_text("user=x\npassword hunter2\n", path).unwrap_err();
    assert!(
        !error.to_string().contains("hunter2") && error.to_string().starts_with("users.cf:2: "),
        "{error}"
    );
}
