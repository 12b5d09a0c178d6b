//! A name that has no IPv4 address.

use std::net::IpAddr;

use super::{Ask, Came, Method, Plan, Purpose, Resolver, Sent, Session, Target, nameserver};

impl Session {
    /// Where the name is known and has no IPv4 address: the IPv6 address that programs ask for as
    /// well (getaddrinfo(3)). That it has no other decides nothing then.
    pub(super) async fn ask_v6(
        &mut self,
        ask: &Ask,
        target: &Target,
        resolver: Option<&Resolver>,
    ) -> Option<IpAddr> {
        let is_bare = |s: &&Sent| match s.probed.as_ref().map(|p| &p.outcome) {
            Some(Came::Dns { rcode: 0, addresses }) => addresses.is_empty(),
            _ => false,
        };
        let name = self.sent.values().find(is_bare)?.probed.as_ref()?.question.clone()?;
        let server = nameserver(resolver);
        let plan = self.plan(ask, target, Method::Dns, Purpose::Resolve, server);
        self.send(Plan { dport: 53, questions: vec![name], asks_v6: true, ..plan });
        self.wait().await;
        let found = self.resolved()?;
        let all = self.sent.values_mut().filter_map(|s| s.probed.as_mut());
        let bare = all.filter(|p| p.purpose == Purpose::Resolve && !p.is_answered());
        bare.for_each(|p| p.purpose = Purpose::Beside);
        Some(found)
    }
}
