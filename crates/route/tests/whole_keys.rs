//! Whole keys, as Postfix sends them to a socketmap, searched for in parts; the forms that the parts
//! have in quotes.

use std::time::Instant;

use config::Config;
use postroom_route::{Propagated, Router, Search, Walk};
use tables::Tables;

#[tokio::test]
async fn quotes_extensions_and_parents() {
    let main_cf = "
myhostname = mail.host.example
mydestination = host.example
recipient_delimiter = +
relay_domains =
local_recipient_maps =
parent_domain_matches_subdomains = relay_domains
propagate_unmatched_extensions = canonical
";
    let config = Config::from_text(main_cf, "").expect("a configuration");
    let tables = Tables::new(&config);
    let router = Router::new(&config, &tables, Vec::new()).expect("a router");
    let list = tables
        .open_list(
            r#"inline:{{"a b"@x.example=quoted}, john@x.example=jane@y.example, x.example=parent, @z.example=all@y.example}, regexp:/dev/null"#,
        )
        .expect("inline tables");
    for (search, key, value) in [
        (Search::Address, r#""a b"@x.example"#, Some("quoted")),
        (Search::Address, r#""a b+c"@x.example"#, Some("quoted")),
        (Search::Address, "x+y@z.example", Some("all@y.example")),
        (Search::Exact, "john+c@x.example", None),
        (
            Search::Map(Propagated::Canonical),
            "john+c@x.example",
            Some("jane+c@y.example"),
        ),
        (
            Search::Map(Propagated::Virtual),
            "john+c@x.example",
            Some("jane@y.example"),
        ),
        (
            Search::Map(Propagated::Virtual),
            "JOHN@x.example",
            Some("jane@y.example"),
        ),
        (Search::Domain, "a.x.example", Some("parent")),
        (Search::Transport, "a.x.example", None),
        (Search::Exact, "a.x.example", None),
        (Search::Address, "", None),
    ] {
        let mut walk = Walk::new(Instant::now());
        let found = router
            .whole_key(&mut walk, "virtual_alias_maps", &list, search, key)
            .await;
        let found = found.expect("no table fails");
        assert_eq!(found.as_deref(), value, "{search:?} {key}");
    }
}
