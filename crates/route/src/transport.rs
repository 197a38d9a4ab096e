//! By which agent, and towards where: the main.cf transports and transport(5).

use serde::Serialize;

use crate::Router;
use crate::find::Forms;
use crate::resolve::Class;
use crate::walk::{Failure, Walk};

/// A delivery service of master.cf and what it is told of the destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Route {
    pub transport: String,
    /// A host, a socket's path, or, for `error` and `discard`, the text.
    pub nexthop: String,
}

/// The transport of each class of addresses, as main.cf has them: `name` or `name:nexthop`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Defaults {
    pub local: String,
    pub virtual_mailbox: String,
    pub relay: String,
    pub default: String,
    pub relayhost: String,
}

impl Router {
    /// The route that main.cf gives an address of this class and domain.
    pub(crate) fn default_route(&self, class: Class, domain: &str) -> Route {
        let (transport, nexthop) = match class {
            Class::Local => (&self.transports.local, self.myhostname.as_str()),
            Class::VirtualAlias => {
                return Route {
                    transport: "error".into(),
                    nexthop: format!("5.1.1 User unknown{}", self.in_table("virtual alias table")),
                };
            }
            Class::VirtualMailbox => (&self.transports.virtual_mailbox, domain),
            Class::Relay => (&self.transports.relay, self.towards(domain)),
            Class::Default => (&self.transports.default, self.towards(domain)),
        };
        // `name:nexthop` in main.cf overrides the nexthop of the class.
        match transport.split_once(':') {
            Some((name, "")) => Route {
                transport: name.into(),
                nexthop: nexthop.into(),
            },
            Some((name, explicit)) => Route {
                transport: name.into(),
                nexthop: explicit.into(),
            },
            None => Route {
                transport: transport.clone(),
                nexthop: nexthop.into(),
            },
        }
    }

    fn towards<'a>(&'a self, domain: &'a str) -> &'a str {
        if self.transports.relayhost.is_empty() {
            domain
        } else {
            &self.transports.relayhost
        }
    }

    /// ` in virtual alias table`, unless `show_user_unknown_table_name` is off.
    pub(crate) fn in_table(&self, table: &str) -> String {
        if self.show_table_in_unknown {
            format!(" in {table}")
        } else {
            String::new()
        }
    }

    /// What transport(5) says of the address, laid over the route so far.
    pub(crate) async fn apply_transport_maps(
        &self,
        walk: &mut Walk,
        address: &str,
        domain: &str,
        route: Route,
    ) -> Result<Route, Failure> {
        if self.transport_maps.is_empty() {
            return Ok(route);
        }
        let (name, maps) = ("transport_maps", &self.transport_maps);
        let found = self
            .find_address(walk, name, maps, address, Forms::WithDomain)
            .await?;
        if let Some(found) = found {
            return Ok(route.overridden_by(&found.value, domain));
        }
        let parents = self.transport_parents;
        let found = self
            .domain_or_parent(walk, name, maps, domain, parents)
            .await?;
        if let Some(value) = found {
            return Ok(route.overridden_by(&value, domain));
        }
        match walk.ask_list(name, maps, "*", true).await? {
            Some(value) => Ok(route.overridden_by(&value, domain)),
            None => Ok(route),
        }
    }
}

impl Route {
    /// `transport:nexthop` from a transport table. A transport without nexthop goes to the
    /// recipient's domain; a nexthop alone keeps the transport; `:` changes nothing.
    fn overridden_by(self, value: &str, domain: &str) -> Route {
        let (transport, nexthop) = value.split_once(':').unwrap_or((value, ""));
        match (transport, nexthop) {
            ("", "") => self,
            ("", nexthop) => Route {
                nexthop: nexthop.into(),
                ..self
            },
            ("error" | "retry", "") => Route {
                transport: transport.into(),
                nexthop: "Address is undeliverable".into(),
            },
            (transport, "") => Route {
                transport: transport.into(),
                nexthop: domain.into(),
            },
            (transport, nexthop) => Route {
                transport: transport.into(),
                nexthop: nexthop.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_values() {
        let start = Route {
            transport: "virtual".into(),
            nexthop: "example.org".into(),
        };
        for (value, transport, nexthop) in [
            ("lmtp:unix:private/x", "lmtp", "unix:private/x"),
            ("smtp:[192.0.2.1]:25", "smtp", "[192.0.2.1]:25"),
            ("smtp:", "smtp", "example.org"),
            (":[192.0.2.1]", "virtual", "[192.0.2.1]"),
            (":", "virtual", "example.org"),
            ("error:", "error", "Address is undeliverable"),
            ("error:5.1.1 gone", "error", "5.1.1 gone"),
        ] {
            let expected = Route {
                transport: transport.into(),
                nexthop: nexthop.into(),
            };
            assert_eq!(
                start.clone().overridden_by(value, "example.org"),
                expected,
                "{value}"
            );
        }
    }
}
