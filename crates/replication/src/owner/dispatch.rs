//! What an owner is told, and by whom it is handled: messages of others, completions of its own
//! work.

use keelson_copy_core::Event;

use crate::message::{Completion, Message};
use crate::owner::Owner;

impl Owner {
    pub(super) fn told(&mut self, message: Message) {
        self.take_news();
        match message {
            Message::Seal(epoch, reply) => {
                self.requests += 1;
                self.seals.insert(self.requests, reply);
                self.event(Event::Seal { request: self.requests, epoch });
            }
            Message::Mount(order, reply) => {
                self.requests += 1;
                self.mounts.insert(self.requests, reply);
                self.guard.mounting(order.required_end.position);
                self.event(Event::Mount { request: self.requests, order });
            }
            Message::Dismount(epoch) => self.event(Event::Dismount { epoch }),
            Message::Write(request) => self.take_write(request),
            Message::Session(member, sender) => self.session(member, sender),
            Message::FromTarget(message) => self.take_from_target(message),
            Message::FromSource(member, message) => self.take_from_source(member, message),
            Message::SourceDown(member, replies) => self.source_down(member, &replies),
            Message::View(reply) => drop(reply.send(self.view())),
            Message::LogView(reply) => drop(reply.send(self.log_view())),
            Message::LookAtSpace => self.looked_at_space(),
            Message::OpenStore(reply) => self.open_store(reply),
            Message::LogDamaged(at, reply) => self.log_damaged(at, reply),
            Message::StoreDamaged(why, code) => self.store_damaged(why, code),
            Message::SeedStanding => self.seed_standing(),
            Message::SaveLag => self.save_lag(),
            Message::ScrubParts(reply) => drop(reply.send(self.scrub_parts())),
            Message::Follows(reply) => drop(reply.send(self.follows())),
            Message::Repair(spans, reply) => self.repair(spans, reply),
        }
    }

    pub(super) fn completed(&mut self, completion: Completion) {
        match completion {
            Completion::Logged { end, frames } => {
                self.frames_in_flight = self.frames_in_flight.saturating_sub(frames);
                if let Some(writer) = &mut self.writer {
                    writer.logged(end.position);
                }
                self.event(Event::Logged { end });
                self.lag_inspected(end.position);
            }
            Completion::LogFailed(fault) => self.event(Event::LogFailed { fault }),
            Completion::LogCut { state, then } => self.log_cut(state, then),
            Completion::ControlSaved(save) => self.event(Event::ControlSaved { save }),
            Completion::TryCounted => self.try_counted(),
            Completion::Replayed { to, time_millis } => self.replayed(to, time_millis),
            Completion::StoreOpened(result) => self.store_opened(&result),
            Completion::StoreFull { to } => self.store_full(to),
            Completion::StoreClosed => self.after_close(),
            Completion::Checkpointed => self.checkpointed(),
            Completion::Truncated(first) => self.truncated(first),
            Completion::StoreFailed(fault) => self.store_failed(fault),
            Completion::ReplayBlocked(at) => self.replay_blocked(at),
            Completion::Mended(result) => self.mended(result),
            Completion::StoreCondemned { why, given_up } => self.store_condemned(why, given_up),
            Completion::StoreReopened(opened) => self.store_reopened(opened),
            Completion::ForkCounted(counted) => self.fork_counted(counted),
            Completion::Fetch { life, event } => self.fetch_completed(life, event),
            Completion::RangeFetched { life, number, answer } => {
                self.range_fetched(life, number, answer);
            }
            Completion::Prepared(prepared) => self.prepared(*prepared),
            Completion::PrepareFailed { request, ticket, refusal } => {
                self.prepare_failed(request, ticket, refusal);
            }
            Completion::CatchUpTurn { copy, turn } => self.take_turn(copy, turn),
            Completion::PeerRead { copy, epoch, from, result } => {
                self.peer_read(copy, epoch, from, result);
            }
            Completion::ChainRead { copy, epoch, matched, same, damage } => {
                if let Some(at) = damage {
                    // The copy is offered the log again after a pause.
                    self.log_shown(copy, matched, at);
                }
                self.event(Event::Opened { copy, epoch, matched, chain_matches: same });
            }
            Completion::FetchMatched { epoch, matched, go } => {
                self.fetch_go = Some(go);
                self.event(Event::FetchMatched { epoch, matched });
            }
            Completion::FetchChunk { epoch, chunk, taken } => {
                self.take_chunk(epoch, chunk, None);
                let _ = taken.send(());
            }
            Completion::FetchFailed { epoch, why } => {
                tracing::warn!(database = %self.shared.name, %epoch, %why, "log fetch failed");
                self.event(Event::FetchFailed { epoch });
            }
        }
    }
}
