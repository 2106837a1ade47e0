//! The nineteen instructions, by group.

pub mod client;
pub mod close;
pub mod config;
pub mod disputes;
pub mod job;
pub mod payment;
pub mod rounds;
pub mod seats;
