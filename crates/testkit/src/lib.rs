//! Real clusters of real processes, for black-box tests and the demonstration.
//!
//! A [`Cluster`] lives in a temporary directory, is made with the commands of the `keelson` binary,
//! and leaves nothing running and nothing behind, also if the test panics. Members can be killed,
//! paused, restarted; a [`Writer`] writes all the while and knows afterwards what must be there.
//!
//! The binary is that of the environment variable `KEELSON_BIN`, else the one beside the test
//! program.

mod binary;
mod browser;
mod cli;
mod cluster;
mod interrupt;
mod logs;
mod metrics;
mod network;
mod ports;
mod preload;
mod process;
mod records;
mod small_volume;
mod view;
mod wait;
mod webdriver;
mod writer;

pub mod chaos;
pub mod demo;
pub mod profile;

pub use binary::keelson_binary;
pub use browser::{Browser, Visit};
pub use cli::{Cli, Output};
pub use cluster::{Cluster, ClusterOptions};
pub use interrupt::until_interrupted;
pub use logs::{LogLine, unexpected_errors};
pub use metrics::collect_metrics;
pub use network::{CLIENTS, Network};
pub use ports::free_port;
pub use preload::bad_host;
pub use process::MemberProcess;
pub use records::{PackageRecords, synthesize_packages};
pub use small_volume::SmallVolume;
pub use view::View;
pub use wait::{eventually, eventually_for};
pub use webdriver::{Screen, WebDriver};
pub use writer::{Oracle, Verified, Writer, WriterOptions};
