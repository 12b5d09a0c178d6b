//! pkttrace: follows packets through a container node's network, hop by hop.

pub mod app;
pub mod bpf;
pub mod cli;
pub mod config;
mod descriptors;
pub mod diagnose;
pub mod doctor;
pub mod event;
pub mod explain;
pub mod firewall;
pub mod foreign;
#[cfg(test)]
mod fuzz;
pub mod journey;
pub mod kernel;
pub mod lab;
pub mod net;
pub mod nftrace;
mod output;
pub mod owner;
pub mod perf;
pub mod privileges;
mod ready;
pub mod render;
pub mod report;
mod signals;
mod silence;
pub mod source;
mod terminal;
pub mod topology;
