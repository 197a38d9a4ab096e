//! Parameters that Postfix does not have. One row a parameter; see [`super::Param`].

use super::rows;

rows! {
    honoured Time "postroom_domain_class_ttl" = "5s", "How long the class of a domain is remembered.";
    honoured Bool "postroom_resolve_at_rcpt" = "yes", "Resolve recipients to their leaves at RCPT; no: later, as Postfix does.";
    honoured Time "postroom_shutdown_timeout" = "30s", "How long running sessions may finish after SIGTERM.";
    honoured Int "postroom_table_connections" = "10", "Connections for one SQL server, user and database.";
    honoured Text "postroom_virtual_mailbox_path" = "", "Path below virtual_mailbox_base that replaces the table's value: %u, %d and the like.";
}
