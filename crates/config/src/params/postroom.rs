//! Parameters that Postfix does not have. One row a parameter; see [`super::Param`].

use super::rows;

rows! {
    honoured Time "postroom_domain_class_ttl" = "5s", "How long the class of a domain is remembered.";
    honoured Bool "postroom_resolve_at_rcpt" = "yes", "Resolve recipients to their leaves at RCPT; no: later, as Postfix does.";
    honoured Time "postroom_shutdown_timeout" = "30s", "How long running sessions may finish after SIGTERM.";
    honoured Time "postroom_table_cache_negative_ttl" = "10s", "How long it is remembered that a key is not in a table on a server; at most postroom_table_cache_ttl.";
    honoured Int "postroom_table_cache_size" = "4194304", "Bytes that the remembered answers of one table may take.";
    honoured Time "postroom_table_cache_ttl" = "0s", "How long an answer of a table on a server is remembered; 0: not at all.";
    honoured Int "postroom_table_connections" = "10", "Connections for one SQL server, user and database.";
    honoured Time "postroom_table_stale_ttl" = "0s", "How old a remembered answer may be that is used while the database is down; 0: none is.";
    honoured Text "postroom_virtual_mailbox_path" = "", "Path below virtual_mailbox_base that replaces the table's value: %u, %d and the like.";
}
