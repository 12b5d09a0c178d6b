//! Rules of policy routing.

use std::net::IpAddr;

use rtnetlink::packet_route::rule::RuleMessage;

use super::Netlink;
use crate::lab::Error;
use crate::lab::addr::Cidr;

impl Netlink {
    /// Adds `from CIDR lookup TABLE`; IPv4 only.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub async fn add_rule(&self, from: Cidr, table: u32, priority: u32) -> Result<(), Error> {
        let message = self.rule_message(from, table, priority)?;
        let mut request = self.handle.rule().add().v4();
        *request.message_mut() = message;
        let added = request.execute().await;
        added.map_err(self.failed(format!("add rule from {from} lookup {table}")))
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub async fn del_rule(&self, from: Cidr, table: u32, priority: u32) -> Result<(), Error> {
        let message = self.rule_message(from, table, priority)?;
        let deleted = self.handle.rule().del(message).execute().await;
        deleted.map_err(self.failed(format!("delete rule from {from} lookup {table}")))
    }

    fn rule_message(&self, from: Cidr, table: u32, priority: u32) -> Result<RuleMessage, Error> {
        let IpAddr::V4(ip) = from.ip else {
            return Err(Error::BadSpec(format!("a rule from {from} is not IPv4")));
        };
        let request = self.handle.rule().add().v4().source_prefix(ip, from.len);
        let mut request = request
            .action(rtnetlink::packet_route::rule::RuleAction::ToTable)
            .table_id(table)
            .priority(priority);
        Ok(request.message_mut().clone())
    }
}
