//! G2: reads of the active copy are linearizable, key by key.
//!
//! Each key has one writer, which writes rising versions one after the other. So the value at an
//! instant is at least the last version acknowledged or read before the read began, and at most the
//! last one whose writing had begun before it ended.

use std::collections::BTreeMap;

use super::{Verdict, Violation};

#[derive(Default, Debug)]
struct Register {
    issued: u64,
    certain: u64,
}

/// What is known of each key.
#[derive(Default, Debug)]
pub struct Registers {
    keys: BTreeMap<(usize, u32), Register>,
}

impl Registers {
    fn key(&mut self, database: usize, key: u32) -> &mut Register {
        self.keys.entry((database, key)).or_default()
    }

    /// A client begins to write.
    pub fn issued(&mut self, database: usize, key: u32, version: u64) {
        let register = self.key(database, key);
        register.issued = register.issued.max(version);
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, database: usize, key: u32, version: u64) {
        let register = self.key(database, key);
        register.certain = register.certain.max(version);
    }

    /// The log goes on without later versions of the key: an operator gave them up.
    pub fn given_up(&mut self, database: usize, key: u32, kept: u64) {
        let register = self.key(database, key);
        register.certain = register.certain.min(kept);
    }

    /// What a read that begins now must see at least.
    pub fn read_begins(&mut self, database: usize, key: u32) -> u64 {
        self.key(database, key).certain
    }

    /// A read that had to see at least `floor` ends with this version.
    ///
    /// # Errors
    /// It is too old, or was never written.
    pub fn read_ends(&mut self, database: usize, key: u32, floor: u64, version: u64) -> Verdict {
        let register = self.key(database, key);
        if version < floor {
            let what = format!("db{database} k{key}: read {version}, but {floor} was there before");
            return Err(Violation::new("linearizable", what));
        }
        if version > register.issued {
            let what = format!("db{database} k{key}: read {version}, which nobody wrote");
            return Err(Violation::new("linearizable", what));
        }
        register.certain = register.certain.max(version);
        Ok(())
    }
}
