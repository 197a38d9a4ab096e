//! What becomes of a parameter that is set: Postroom acts on it, does without it, or does not have what it is for;
//! and what follows. One table for the parameters that are not honoured, by name.

use super::Param;
use crate::master::{Service, ServiceKind};

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Honoured,
    /// No effect, and no harm: why.
    Harmless(&'static str),
    /// No effect: what follows.
    Missing(&'static str),
}

use Effect::{Harmless, Missing};

const PROCESSES: &str = "about processes of Postfix: Postroom is one process";
const PARTS: &str = "how the programs of Postfix find each other: Postroom is one process";
const FILES: &str =
    "where the programs and documents of Postfix are: Postroom starts and shows none of them";
const QUEUE: &str = "about Postfix's queue files and queue manager: Postroom's queue does without";
const OPENSSL: &str = "about OpenSSL: TLS is rustls, which chooses and does that by itself";
const RESUMED: &str = "TLS sessions are not resumed: each connection negotiates anew";
const NO_PARAMETERS: &str = "finite-field and export key exchanges are not offered";
const DSA: &str = "DSA certificates, which no client accepts any more";
const SHOWN: &str = "a fact that Postfix tells here, not a setting";
const POSTSCREENS: &str = "postscreen alone needs it";
const INSIDE: &str = "done inside Postroom's one process";
const QMQP: &str = "about qmqpd; a line of it in master.cf is reported by itself";

const POSTSCREEN: &str =
    "the tests of postscreen are not made: clients that it would keep out are let in";
const TLS_OUT: &str = "TLS towards other servers does not do what this setting says";
const SASL_OUT: &str = "logins at other servers do not do what this setting says";
const TLS_IN: &str = "TLS towards clients does not do what this setting says";
const CHECKS: &str = "mail that these checks would refuse or change goes through as it is";
const FILTER: &str =
    "mail does not go through the filter: what it would refuse or change stays as it is";
const VERIFY: &str = "addresses are not verified by asking other servers";
const LOCAL: &str = "mail for accounts of this machine does not do what this setting says";
const CLIENT: &str = "mail to other servers goes out as if it were not set";
const LMTP: &str = "mail goes to LMTP servers as if it were not set";
const REPORTS: &str = "reports to senders and to the postmaster are written as if it were not set";
const HEADERS: &str = "headers are written as if it were not set";
const DECIDES: &str = "clients are answered as if it were not set";
const ROUTES: &str = "mail takes its way as if it were not set";
const PACE: &str = "deliveries are not slowed down or grouped by it";
const RIGHTS: &str = "it restricts users of this machine; the tools are for root alone";

/// The first that fits counts. `*` stands for any text at the beginning or at the end of a name.
static EFFECTS: &[(&str, Effect)] = &[
    // Facts, processes, files
    ("mail_release_date", Harmless(SHOWN)),
    ("mail_version", Harmless(SHOWN)),
    ("process_id", Harmless(SHOWN)),
    ("process_name", Harmless(SHOWN)),
    ("service_name", Harmless(SHOWN)),
    ("process_id_directory", Harmless(PROCESSES)),
    ("*_service_name", Harmless(PARTS)),
    ("ipc_*", Harmless(PARTS)),
    ("trigger_timeout", Harmless(PARTS)),
    ("command_directory", Harmless(FILES)),
    ("daemon_directory", Harmless(FILES)),
    ("data_directory", Harmless(FILES)),
    ("meta_directory", Harmless(FILES)),
    ("shlib_directory", Harmless(FILES)),
    ("html_directory", Harmless(FILES)),
    ("readme_directory", Harmless(FILES)),
    ("sample_directory", Harmless(FILES)),
    ("manpage_directory", Harmless(FILES)),
    ("sendmail_path", Harmless(FILES)),
    ("mailq_path", Harmless(FILES)),
    ("newaliases_path", Harmless(FILES)),
    ("openssl_path", Harmless(FILES)),
    ("setgid_group", Harmless(FILES)),
    ("alternate_config_directories", Harmless(FILES)),
    (
        "multi_instance_*",
        Missing("Postroom runs one instance a process: start one `serve -c DIR` for each"),
    ),
    ("postmulti_*", Harmless("postmulti is not part of Postroom")),
    ("max_idle", Harmless(PROCESSES)),
    ("max_use", Harmless(PROCESSES)),
    ("fork_*", Harmless(PROCESSES)),
    (
        "daemon_table_open_error_is_fatal",
        Missing("a table that cannot be opened fails its lookups, and the mail is tried later"),
    ),
    ("daemon_timeout", Harmless(PROCESSES)),
    ("service_throttle_time", Harmless(PROCESSES)),
    ("application_event_drain_time", Harmless(PROCESSES)),
    (
        "master_service_disable",
        Missing("services are not switched off by it: put # in front of their lines in master.cf"),
    ),
    ("import_environment", Harmless(PROCESSES)),
    ("debugger_command", Harmless(PROCESSES)),
    (
        "debug_peer_*",
        Missing(
            "nothing is logged in more detail; `postroom explain` tells how an address is decided",
        ),
    ),
    ("helpful_warnings", Harmless("warnings are always given")),
    (
        "fault_injection_code",
        Harmless("for tests of Postfix itself"),
    ),
    ("dont_remove", Harmless("for tests of Postfix itself")),
    ("tcp_windowsize", Harmless("the kernel chooses the window")),
    (
        "known_tcp_ports",
        Harmless(
            "the names of /etc/services and lmtp, smtp, smtps, submissions, submission are known",
        ),
    ),
    ("anvil_status_update_time", Harmless(PROCESSES)),
    (
        "connection_cache_*",
        Harmless(
            "about the process that keeps connections for Postfix; Postroom keeps them itself",
        ),
    ),
    (
        "berkeley_db_*",
        Harmless("`hash:` and `btree:` are read from their source text: there is no Berkeley DB"),
    ),
    (
        "default_cache_db_type",
        Harmless("there are no cache files"),
    ),
    (
        "proxy_write_maps",
        Harmless("nothing is written through proxymap"),
    ),
    (
        "biff",
        Harmless("it tells users who are logged in here of new mail"),
    ),
    (
        "sun_mailtool_compatibility",
        Harmless("for a program of the nineties"),
    ),
    ("backwards_bounce_logfile_compatibility", Harmless(QUEUE)),
    (
        "enable_long_queue_ids",
        Harmless("queue IDs are long always, and never used again"),
    ),
    ("hash_queue_*", Harmless(QUEUE)),
    ("queue_file_attribute_count_limit", Harmless(QUEUE)),
    ("qmgr_*", Harmless(QUEUE)),
    ("in_flow_delay", Harmless(QUEUE)),
    (
        "queue_run_delay",
        Harmless("each message is tried when its own time has come"),
    ),
    (
        "delay_logging_resolution_limit",
        Harmless("delays are logged as with its default"),
    ),
    (
        "fast_flush_*",
        Harmless("ETRN asks the queue itself; there are no lists that age"),
    ),
    ("postlogd_*", Harmless(PROCESSES)),
    (
        "info_log_address_format",
        Missing("addresses are logged as with its default"),
    ),
    (
        "respectful_logging",
        Harmless("the log has the newer words always"),
    ),
    ("authorized_*_users", Harmless(RIGHTS)),
    (
        "smtputf8_autodetect_classes",
        Harmless("mail of our own says by itself whether it needs SMTPUTF8"),
    ),
    (
        "enable_idna2003_compatibility",
        Harmless("domain names follow IDNA 2008"),
    ),
    // TLS
    ("*_session_cache_database", Harmless(RESUMED)),
    ("*_session_cache_timeout", Harmless(RESUMED)),
    ("smtpd_tls_always_issue_session_ids", Harmless(RESUMED)),
    ("tls_session_ticket_cipher", Harmless(RESUMED)),
    ("tls_random_*", Harmless(OPENSSL)),
    ("tls_daemon_random_bytes", Harmless(OPENSSL)),
    ("tls_*_cipherlist", Harmless(OPENSSL)),
    ("tls_eecdh_*", Harmless(OPENSSL)),
    ("tls_ffdhe_auto_groups", Harmless(OPENSSL)),
    ("tls_disable_workarounds", Harmless(OPENSSL)),
    ("tls_ssl_options", Harmless(OPENSSL)),
    ("tls_config_*", Harmless(OPENSSL)),
    ("tls_fast_shutdown_enable", Harmless(OPENSSL)),
    ("tls_legacy_public_key_fingerprints", Missing(TLS_IN)),
    (
        "tls_append_default_CA",
        Missing("only the CAs that are named are trusted"),
    ),
    ("tls_wildcard_matches_multiple_labels", Missing(TLS_OUT)),
    ("tls_dane_digests", Missing(TLS_OUT)),
    ("tls_required_enable", Missing(TLS_OUT)),
    ("requiretls_*", Missing("REQUIRETLS is not offered")),
    ("smtpd_tls_dh*", Harmless(NO_PARAMETERS)),
    ("smtpd_tls_eecdh_grade", Harmless(OPENSSL)),
    ("smtpd_tls_dkey_file", Harmless(DSA)),
    ("smtpd_tls_enable_rpk", Missing(TLS_IN)),
    ("smtpd_tls_*", Missing(TLS_IN)),
    ("smtp_tls_dkey_file", Harmless(DSA)),
    ("smtp_tls_dcert_file", Harmless(DSA)),
    ("smtp_tls_*", Missing(TLS_OUT)),
    (
        "smtp_tlsrpt_*",
        Missing("TLS reports (RFC 8460) are not made"),
    ),
    ("lmtp_tls_*", Missing(TLS_OUT)),
    // SASL
    ("smtp_sasl_*", Missing(SASL_OUT)),
    ("lmtp_sasl_*", Missing(SASL_OUT)),
    (
        "*_send_dummy_mail_auth",
        Harmless("AUTH= tells nothing that servers use"),
    ),
    (
        "send_cyrus_sasl_authzid",
        Harmless("about Cyrus SASL: Postroom speaks to Dovecot"),
    ),
    (
        "cyrus_sasl_config_path",
        Harmless("about Cyrus SASL: Postroom speaks to Dovecot"),
    ),
    (
        "smtpd_sasl_local_domain",
        Missing("logins go to Dovecot as the client wrote them: set auth_default_realm there"),
    ),
    (
        "*_login_sender_maps",
        Missing("senders of mail from this machine are not checked"),
    ),
    // postscreen and its helpers
    ("postscreen_*", Missing(POSTSCREEN)),
    ("tlsproxy_*", Missing(POSTSCREEN)),
    ("dnsblog_*", Missing(POSTSCREEN)),
    // Filters
    (
        "non_smtpd_milters",
        Harmless("all mail comes by SMTP here, where smtpd_milters see it"),
    ),
    ("*_header_checks", Missing(CHECKS)),
    ("*body_checks", Missing(CHECKS)),
    ("internal_mail_filter_classes", Missing(CHECKS)),
    ("smtpd_proxy_*", Missing(FILTER)),
    ("strict_7bit_headers", Missing(CHECKS)),
    ("strict_8bitmime*", Missing(CHECKS)),
    ("strict_mime_encoding_domain", Missing(CHECKS)),
    ("mime_*", Missing(CHECKS)),
    ("header_address_token_limit", Missing(CHECKS)),
    (
        "disable_mime_*",
        Harmless("bodies are passed on as they are"),
    ),
    (
        "force_mime_input_conversion",
        Missing("bodies are passed on as they are"),
    ),
    (
        "detect_8bit_encoding_header",
        Missing("bodies are passed on as they are"),
    ),
    // Decisions about clients
    ("address_verify_*", Missing(VERIFY)),
    ("unverified_*", Missing(VERIFY)),
    (
        "smtpd_authorized_verp_clients",
        Missing("VERP is not offered"),
    ),
    ("*verp*", Missing("VERP is not offered")),
    (
        "smtpd_reject_footer_maps",
        Missing("the footer of all refusals is that of smtpd_reject_footer"),
    ),
    (
        "smtpd_upstream_proxy_*",
        Missing("the proxy's PROXY line is not understood, and its connections fail"),
    ),
    (
        "smtpd_client_ipv*_prefix_length",
        Missing("each address is counted by itself"),
    ),
    ("smtpd_*", Missing(DECIDES)),
    ("qmqpd_*", Harmless(QMQP)),
    (
        "dns_ncache_ttl_fix_enable",
        Harmless("the resolver remembers what the DNS says, as long as it says"),
    ),
    ("dnssec_probe", Missing(TLS_OUT)),
    // Delivery
    ("duplicate_filter_limit", Missing(LOCAL)),
    ("local_header_rewrite_clients", Missing(HEADERS)),
    ("local_*", Missing(LOCAL)),
    (
        "*_delivery_status_filter",
        Missing("what a delivery ends with is not changed"),
    ),
    ("*_address_verify_target", Missing(VERIFY)),
    ("lmtp_*", Missing(LMTP)),
    ("smtp_*", Missing(CLIENT)),
    ("use_srv_lookup", Missing(CLIENT)),
    ("*_srv_lookup_*", Missing(CLIENT)),
    ("ignore_mx_lookup_error", Missing(CLIENT)),
    ("best_mx_transport", Missing(CLIENT)),
    (
        "sender_dependent_*",
        Missing("all senders' mail goes the same way"),
    ),
    (
        "defer_transports",
        Missing("mail for these transports is delivered at once"),
    ),
    ("*_transport_rate_delay", Missing(PACE)),
    ("*_destination_rate_delay", Missing(PACE)),
    ("default_delivery_slot_*", Harmless(QUEUE)),
    ("default_minimum_delivery_slots", Harmless(QUEUE)),
    ("default_recipient_*", Harmless(QUEUE)),
    ("default_extra_recipient_limit", Harmless(QUEUE)),
    ("default_destination_concurrency_*", Harmless(QUEUE)),
    ("destination_concurrency_feedback_debug", Harmless(QUEUE)),
    ("initial_destination_concurrency", Harmless(QUEUE)),
    ("transport_retry_time", Harmless(QUEUE)),
    ("empty_address_recipient", Missing(ROUTES)),
    ("empty_address_*", Missing(ROUTES)),
    // Reports and headers
    ("2bounce_notice_recipient", Missing(REPORTS)),
    ("bounce_*", Missing(REPORTS)),
    ("delay_notice_recipient", Missing(REPORTS)),
    ("error_notice_recipient", Missing(REPORTS)),
    ("notify_classes", Missing(REPORTS)),
    ("confirm_delay_cleared", Missing(REPORTS)),
    ("enable_threaded_bounces", Missing(REPORTS)),
    ("canonical_classes", Missing(HEADERS)),
    ("*_canonical_classes", Missing(HEADERS)),
    ("masquerade_*", Missing(HEADERS)),
    ("remote_header_rewrite_domain", Missing(HEADERS)),
    ("undisclosed_recipients_header", Missing(HEADERS)),
    ("header_from_format", Missing(HEADERS)),
    ("full_name_encoding_charset", Missing(HEADERS)),
    ("sendmail_fix_line_endings", Missing(HEADERS)),
];

/// What becomes of the parameter where it is set.
pub fn effect(param: &Param) -> Effect {
    if param.honoured {
        return Effect::Honoured;
    }
    let found = EFFECTS
        .iter()
        .find(|(pattern, _)| fits(pattern, param.name));
    found.map_or(Missing(ROUTES), |(_, effect)| *effect)
}

/// What becomes of a service of master.cf.
pub fn service_effect(service: &Service) -> Effect {
    let inet = service.kind == ServiceKind::Inet;
    match service.command.as_str() {
        "smtpd" | "spawn" if inet => Effect::Honoured,
        "smtpd" if service.kind == ServiceKind::Pass => Harmless(POSTSCREENS),
        "postscreen" if inet => Missing(POSTSCREEN),
        _ if inet => Missing("nothing listens there"),
        "local" | "virtual" | "lmtp" | "smtp" | "pipe" | "error" | "discard" => Effect::Honoured,
        "cleanup" | "qmgr" | "oqmgr" | "bounce" | "trivial-rewrite" | "flush" | "proxymap"
        | "showq" | "anvil" | "scache" | "postlogd" | "tlsmgr" | "verify" => Harmless(INSIDE),
        "tlsproxy" | "dnsblog" => Harmless(POSTSCREENS),
        "pickup" => Missing(
            "mail that programs of this machine hand to sendmail(1) is not taken: let them send by SMTP to 127.0.0.1",
        ),
        "spawn" if service.kind == ServiceKind::Unix => Effect::Honoured,
        _ => Missing("the program is not started, and what connects to its socket gets no answer"),
    }
}

/// One `*` at the start, in the middle or at the end, or at both ends.
fn fits(pattern: &str, name: &str) -> bool {
    if let Some(part) = pattern
        .strip_prefix('*')
        .and_then(|rest| rest.strip_suffix('*'))
    {
        return name.contains(part);
    }
    match pattern.split_once('*') {
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_that_is_not_honoured_is_in_the_table() {
        let lost: Vec<&str> = super::super::PARAMS
            .iter()
            .filter(|param| !param.honoured)
            .filter(|param| !EFFECTS.iter().any(|(pattern, _)| fits(pattern, param.name)))
            .map(|param| param.name)
            .collect();
        assert!(lost.is_empty(), "{lost:?}");
    }

    #[test]
    fn every_row_is_of_use() {
        let first = |name: &str| EFFECTS.iter().position(|(pattern, _)| fits(pattern, name));
        let all = super::super::PARAMS.iter();
        let used: Vec<usize> = all
            .filter(|param| !param.honoured)
            .filter_map(|param| first(param.name))
            .collect();
        let rows = EFFECTS.iter().enumerate();
        let unused: Vec<&str> = rows
            .filter(|(at, _)| !used.contains(at))
            .map(|(_, (pattern, _))| *pattern)
            .collect();
        assert!(
            unused.is_empty(),
            "no parameter needs these rows, or one above takes them all: {unused:?}"
        );
    }
}
