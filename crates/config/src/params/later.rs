//! Parameters that Postfix 3.8 to 3.11 added: a main.cf written for a later release is read without
//! complaint. [`ADDED`] says which release each came with.

use super::rows;

/// Name and release.
pub static ADDED: &[(&str, &str)] = &[
    ("allow_srv_lookup_fallback", "3.8"),
    ("ignore_srv_lookup_error", "3.8"),
    ("use_srv_lookup", "3.8"),
    ("smtpd_client_ipv4_prefix_length", "3.8"),
    ("smtpd_client_ipv6_prefix_length", "3.8"),
    ("force_mime_input_conversion", "3.9"),
    ("maillog_file_permissions", "3.9"),
    ("lmtp_tls_enable_rpk", "3.9"),
    ("smtp_tls_enable_rpk", "3.9"),
    ("smtpd_tls_enable_rpk", "3.9"),
    ("tls_ffdhe_auto_groups", "3.9"),
    ("full_name_encoding_charset", "3.10"),
    ("smtp_tls_enforce_sts_mx_patterns", "3.10"),
    ("smtp_tlsrpt_enable", "3.10"),
    ("smtp_tlsrpt_skip_reused_handshakes", "3.10"),
    ("smtp_tlsrpt_socket_name", "3.10"),
    ("smtpd_hide_client_session", "3.10"),
    ("tls_required_enable", "3.10"),
    ("default_cache_db_type", "3.11"),
    ("requiretls_enable", "3.11"),
    ("requiretls_redact_dsn", "3.11"),
];

rows! {
    accepted Bool "allow_srv_lookup_fallback" = "no", "";
    accepted Bool "ignore_srv_lookup_error" = "no", "";
    accepted Text "use_srv_lookup" = "", "";
    accepted Int "smtpd_client_ipv4_prefix_length" = "32", "";
    accepted Int "smtpd_client_ipv6_prefix_length" = "84", "";
    accepted Bool "force_mime_input_conversion" = "no", "";
    honoured Text "maillog_file_permissions" = "0600", "Mode of a new log file.";
    accepted Bool "lmtp_tls_enable_rpk" = "no", "";
    accepted Bool "smtp_tls_enable_rpk" = "no", "";
    accepted Bool "smtpd_tls_enable_rpk" = "no", "";
    accepted Text "tls_ffdhe_auto_groups" = "ffdhe2048:ffdhe3072", "";
    accepted Text "full_name_encoding_charset" = "utf-8", "";
    accepted Bool "smtp_tls_enforce_sts_mx_patterns" = "yes", "";
    accepted Bool "smtp_tlsrpt_enable" = "no", "";
    accepted Bool "smtp_tlsrpt_skip_reused_handshakes" = "yes", "";
    accepted Text "smtp_tlsrpt_socket_name" = "", "";
    accepted Bool "smtpd_hide_client_session" = "no", "";
    accepted Bool "tls_required_enable" = "yes", "";
    accepted Text "default_cache_db_type" = "btree", "";
    accepted Bool "requiretls_enable" = "yes", "";
    accepted Text "requiretls_redact_dsn" = "yes", "";
}
