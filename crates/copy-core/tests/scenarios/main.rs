//! The machine of a copy, one file per area: arrange, step, assert the exact actions.

mod activation;
mod ceiling;
mod commit;
mod faults;
mod hold;
mod open;
mod restart;
mod rule_change;
mod seal;
mod shipping;
mod support;
mod undo;
