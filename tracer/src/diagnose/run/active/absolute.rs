//! What the name servers say of a name by itself, beside what the search list or `/etc/hosts` makes
//! of it.

use super::{
    Ask, BESIDE, Came, Method, Plan, Purpose, Resolver, Sent, Session, Target, nameserver,
};

impl Session {
    /// Where the name was found in `/etc/hosts` (`is_written`), or with a domain of the search list
    /// behind it: what it means by itself, and whether that is reached.
    pub(super) async fn ask_otherwise(
        &mut self,
        ask: &Ask,
        target: &Target,
        is_written: bool,
        resolver: Option<&Resolver>,
    ) {
        let Some(name) = &target.name else { return };
        let plain = name.trim_end_matches('.');
        let found = |s: &Sent| match s.probed.as_ref().map(|p| (&p.outcome, &p.question)) {
            Some((Came::Dns { rcode: 0, addresses }, Some(question))) if !addresses.is_empty() => {
                Some(question.clone())
            }
            _ => None,
        };
        let question = self.sent.values().find_map(found);
        if !is_written && question.is_none_or(|question| question == plain) {
            return;
        }
        let server = nameserver(resolver);
        let questions = vec![plain.to_owned()];
        let plan = self.plan(ask, target, Method::Dns, Purpose::Beside, server);
        self.send(Plan { dport: 53, questions, timeout: plan.timeout.min(BESIDE), ..plan });
        self.wait().await;
        let is_plain =
            |s: &&Sent| s.plan.purpose == Purpose::Beside && s.plan.method == Method::Dns;
        let came = self.sent.values().find(is_plain).and_then(|s| s.probed.as_ref());
        let Some(Came::Dns { addresses, .. }) = came.map(|p| &p.outcome) else { return };
        let Some(other) = addresses.first().copied().filter(|a| Some(*a) != target.addr) else {
            return;
        };
        let plan = self.plan(ask, target, target.proto, Purpose::Beside, other);
        let dport = target.port.unwrap_or(0);
        self.send(Plan { dport, timeout: plan.timeout.min(BESIDE), ..plan });
        self.wait().await;
    }
}
