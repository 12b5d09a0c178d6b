//! The node's network configuration, read by netlink and `/proc`.

pub mod setns;
