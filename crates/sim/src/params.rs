//! Everything that a run depends on, drawn from its seed.

use keelson_env::SplitMix64;
use keelson_types::{CommitConstraint, MountDial, Weakness};

/// One millisecond of simulated time, in nanoseconds.
pub const MS: u64 = 1_000_000;
/// One second.
pub const SEC: u64 = 1_000 * MS;

/// How often something goes wrong, in events per 100 simulated seconds.
#[derive(Clone, Debug, Default)]
pub struct FaultRates {
    /// A data process dies; its control process lives and certifies it.
    pub data_crash: u64,
    /// Both processes of a member die, the machine lives.
    pub member_crash: u64,
    /// A machine loses power: what was not synced may be lost or torn.
    pub power_loss: u64,
    /// A data process, or a whole member, stops for a while.
    pub pause: u64,
    /// Links are cut, in one direction or both.
    pub partition: u64,
    /// A volume is full for a while.
    pub disk_full: u64,
    /// A file sync fails.
    pub sync_failure: u64,
    /// A bit flips in a log file (at most one member per run).
    pub bit_flip: u64,
    /// A wall clock jumps.
    pub clock_jump: u64,
    /// An operator moves a database.
    pub switchover: u64,
    /// An operator closes a database for a while.
    pub dismount: u64,
    /// An operator changes the commit constraint.
    pub constraint: u64,
    /// A disk does nothing for a while.
    pub stall: u64,
    /// A disk is replaced by an empty one (at most one member per run).
    pub disk_loss: u64,
    /// An operator suspends a copy for a while.
    pub suspend: u64,
    /// An operator gives a copy a replay lag for a while.
    pub lag: u64,
    /// An operator accepts loss for a database that waits.
    pub accept_loss: u64,
    /// A store file rots (on the member whose log rots, too).
    pub store_rot: u64,
    /// An operator makes an instant of a copy the truth. Fixed by the seed's number, so that the
    /// other seeds stay the runs that they were.
    pub instant: u64,
    /// Little of a log volume is free for a while. Fixed by the seed's number, too.
    pub short_of_space: u64,
    /// An operator has a copy seeded. Fixed by the seed's number, too.
    pub reseed: u64,
}

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Params {
    /// The seed of everything.
    pub seed: u64,
    /// Members; all vote, all hold copies up to `copies`.
    pub members: usize,
    /// Databases.
    pub databases: usize,
    /// Copies per database.
    pub copies: usize,
    /// Size at which a generation is closed, in bytes: tiny, so that files change all the time.
    pub generation_bytes: u64,
    /// Bytes of log in one message.
    pub ship_bytes: usize,
    /// Smallest and largest delay of a message, in nanoseconds.
    pub net_delay: (u64, u64),
    /// Lost datagrams and broken sessions, in 10,000 messages.
    pub loss: u64,
    /// Smallest and largest duration of a file sync, in nanoseconds.
    pub sync_delay: (u64, u64),
    /// Smallest and largest delay of consensus, in nanoseconds.
    pub commit_delay: (u64, u64),
    /// Largest difference of a clock's speed, in parts per million.
    pub drift_ppm: u64,
    /// Sites, over which the members are spread in turn.
    pub sites: usize,
    /// The constraint that databases begin with; automatic if none.
    pub constraint: Option<CommitConstraint>,
    /// The mount dial of every member.
    pub dial: MountDial,
    /// How long writes wait for a silent participant, in milliseconds; none for ever.
    pub degrade_after_ms: Option<u64>,
    /// How long an active without a lease waits, in milliseconds.
    pub dismount_after_ms: u64,
    /// Pause between two operations of a client, in nanoseconds.
    pub think: u64,
    /// Length of the phase with faults, in nanoseconds.
    pub run: u64,
    /// Longest time from the healing to the quiet end, in nanoseconds.
    pub heal: u64,
    /// Log is truncated, and copies that miss some are seeded. Fixed by the seed's number.
    pub truncation: bool,
    /// The faults.
    pub faults: FaultRates,
    /// The member that is elected first; by chance if none.
    pub first_leader: Option<usize>,
    /// The rule that is switched off.
    pub weakness: Weakness,
    /// H15: a promise is saved in a new file that replaces the old one, which needs space (S20).
    pub saves_need_space: bool,
}

impl Params {
    /// The parameters of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = SplitMix64::new(seed ^ 0x5eed);
        let members = 3 + random.below(3) as usize;
        let slow_net = random.chance(1, 5);
        let slow_disk = random.chance(1, 5);
        let calm = random.chance(1, 10);
        let mut rate = |most: u64| {
            let on = random.chance(3, 5);
            let rate = random.below(most + 1);
            if on && !calm { rate } else { 0 }
        };
        let truncation = seed % 5 < 2;
        let faults = FaultRates {
            data_crash: rate(30),
            member_crash: rate(15),
            power_loss: rate(15),
            pause: rate(20),
            partition: rate(30),
            disk_full: rate(15),
            sync_failure: rate(10),
            bit_flip: rate(5),
            clock_jump: rate(20),
            switchover: rate(20),
            dismount: rate(10),
            constraint: rate(15),
            stall: rate(15),
            disk_loss: rate(4),
            suspend: rate(20),
            lag: rate(15),
            accept_loss: rate(100),
            store_rot: rate(10),
            instant: if !calm && seed.is_multiple_of(3) { 40 } else { 0 },
            reseed: if !calm && truncation { 15 } else { 0 },
            short_of_space: if !calm && seed.is_multiple_of(5) { 30 } else { 0 },
        };
        Self {
            seed,
            members,
            databases: 1 + random.below(3) as usize,
            copies: members.min(2 + random.below(3) as usize),
            generation_bytes: 1_500 + random.below(8_000),
            ship_bytes: 300 + random.below(20_000) as usize,
            net_delay: if slow_net { (MS, 40 * MS) } else { (MS / 20, 2 * MS) },
            loss: if random.chance(1, 2) { random.below(60) } else { 0 },
            sync_delay: if slow_disk { (MS, 80 * MS) } else { (MS / 10, 4 * MS) },
            commit_delay: (MS, 15 * MS),
            drift_ppm: random.below(4_500),
            sites: 1 + random.below(2) as usize,
            constraint: random.chance(1, 3).then(|| any_constraint(&mut random)),
            dial: match seed.is_multiple_of(4) {
                true => MountDial::BestAvailability,
                false => MountDial::Lossless,
            },
            degrade_after_ms: if random.chance(1, 8) {
                None
            } else {
                Some(500 + random.below(6_000))
            },
            dismount_after_ms: 1_000 + random.below(9_000),
            think: MS + random.below(40 * MS),
            run: 20 * SEC,
            heal: 60 * SEC,
            truncation,
            faults,
            first_leader: None,
            weakness: Weakness::None,
            saves_need_space: false,
        }
    }

    /// A quiet world for scripted histories: no fault but what the script orders. The last member
    /// but one is elected first.
    #[must_use]
    pub fn scripted(members: usize, copies: usize, weakness: Weakness) -> Self {
        Self {
            members,
            databases: 1,
            copies,
            generation_bytes: 64 * 1024,
            ship_bytes: 1,
            net_delay: (MS / 10, MS / 5),
            loss: 0,
            sync_delay: (MS / 5, MS / 2),
            commit_delay: (MS, 2 * MS),
            drift_ppm: 0,
            sites: 1,
            constraint: None,
            degrade_after_ms: Some(10_000),
            dismount_after_ms: 30_000,
            truncation: false,
            faults: FaultRates::default(),
            first_leader: Some(members - 2),
            weakness,
            ..Self::from_seed(1)
        }
    }
}

/// One of the constraints.
pub(crate) fn any_constraint(random: &mut SplitMix64) -> CommitConstraint {
    use CommitConstraint as C;
    let all =
        [C::None, C::SecondCopy, C::SecondDatacenter, C::AllDatacenters, C::AllCopies, C::Majority];
    all[random.below(6) as usize]
}
