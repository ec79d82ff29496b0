//! Black-box tests: real clusters of real processes, used through the client and the command line.
//!
//! Every test starts its own cluster in its own directory with its own ports. Nothing here knows
//! more than an operator: processes are killed and paused from outside, files are damaged as disks
//! damage them, and what must hold is asked from the running cluster.

mod bad_input;
mod bounded_seeds;
mod catalog_seeds;
mod certificates;
mod chaos;
mod command_line;
mod console;
mod copies;
mod crashes;
mod damage;
mod data;
mod data_network;
mod dev;
mod digests;
mod diverge;
mod edges;
mod failures;
mod floors;
mod forgotten;
mod forks;
mod forming;
mod full_volumes;
mod hostile_clients;
mod import;
mod instants;
mod kill_loop;
mod losses;
mod metrics;
mod moves;
mod networks;
mod pains;
mod partitions;
mod range_repair;
mod rehearsals;
mod replacements;
mod reseeds;
mod restores;
mod returns;
mod roles;
mod rot;
mod sacrifices;
mod search;
mod seed_kills;
mod seeds;
mod selection;
mod sites;
mod space;
mod tokens;
mod traces;
mod volumes;
mod watching;
mod witnesses;
