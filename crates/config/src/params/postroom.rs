//! Parameters that Postfix does not have. One row a parameter; see [`super::Param`].

use super::rows;

rows! {
    honoured Time "postroom_domain_class_ttl" = "5s", "How long the class of a domain is remembered.";
    honoured Bool "postroom_resolve_at_rcpt" = "yes", "Resolve recipients to their leaves at RCPT; no: later, as Postfix does.";
    honoured Text "postroom_policy_at_leaf" = "", "Services of check_policy_service that are also asked about the mailboxes that an alias leads to.";
    honoured Text "postroom_metrics_listen" = "", "Where `postroom tables serve` shows its metrics to Prometheus, as HOST:PORT.";
    honoured Time "postroom_shutdown_timeout" = "30s", "How long running sessions may finish after SIGTERM.";
    honoured Time "postroom_table_cache_negative_ttl" = "10s", "How long it is remembered that a key is not in a table on a server; at most postroom_table_cache_ttl.";
    honoured Int "postroom_table_cache_size" = "4194304", "Bytes that the remembered answers of one table may take.";
    honoured Time "postroom_table_cache_ttl" = "0s", "How long an answer of a table on a server is remembered; 0: not at all.";
    honoured Int "postroom_table_connections" = "10", "Connections for one SQL server, user and database, or one server of socketmap:, tcp: or memcache: tables.";
    honoured Time "postroom_table_stale_ttl" = "0s", "How old a remembered answer may be that is used while the database is down; 0: none is.";
    honoured Text "postroom_tables_by_file" = "", "Database tables that `postroom tables serve` serves under the names of their files.";
    honoured Time "postroom_tables_idle_timeout" = "1h", "How long `postroom tables serve` waits for a client's next request.";
    honoured Text "postroom_tables_listen" = "unix:private/postroom", "Where `postroom tables serve` listens: unix:PATH, inet:HOST:PORT, tcp:HOST:PORT:NAME.";
    honoured Time "postroom_tables_lookup_timeout" = "90s", "How long a lookup of `postroom tables serve` may take.";
    honoured Text "postroom_virtual_mailbox_path" = "", "Path below virtual_mailbox_base that replaces the table's value: %u, %d and the like.";
}
