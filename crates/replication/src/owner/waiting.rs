//! What a copy holds back while a volume is full (G7): frames that the active sent, and replay.
//!
//! Looked at once a second while there is something, so that the copy goes on by itself when there
//! is room. Nothing is acknowledged of what waits; an active that hears nothing for too long drops
//! the copy from its rule. The session stays, so that truncation can make the room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keelson_format::Chunk;
use keelson_types::{Epoch, Position};
use tokio::time::Instant;

use crate::owner::Owner;
use crate::owner::shipping::WINDOW_BYTES;
use crate::room::Room;

/// How often is looked for room.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Frames that may wait: what a source sends without an acknowledgement, and its last message.
const FRAMES_BYTES_MAX: usize = 2 * WINDOW_BYTES;

/// See the module page.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    frames: VecDeque<(Epoch, Chunk, Position)>,
    frame_bytes: usize,
    replay: Option<Position>,
    look_at: Option<Instant>,
}

impl Waiting {
    /// When to look for room; nothing while nothing waits.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.look_at
    }

    /// Frames of a session that ended will be sent again.
    pub(super) fn forget_frames(&mut self) {
        self.frames.clear();
        self.frame_bytes = 0;
    }

    fn look_later(&mut self) {
        self.look_at.get_or_insert_with(|| Instant::now() + LOOK_AGAIN);
    }
}

impl Owner {
    /// The room on its volumes.
    pub(super) fn room(&self) -> Arc<Room> {
        self.context.room_of(self.shared.database)
    }

    /// Takes frames of the active, if there is room for them.
    pub(super) fn take_frames(&mut self, epoch: Epoch, chunk: Chunk, committed: Position) {
        if self.waiting.frames.is_empty() && self.room().look().takes_log() {
            return self.take_chunk(epoch, chunk, Some(committed));
        }
        self.waiting.frame_bytes += chunk.bytes.len();
        if self.waiting.frame_bytes > FRAMES_BYTES_MAX {
            self.waiting.forget_frames();
            return self.drop_source(epoch);
        }
        self.generated = self.generated.max(chunk.end);
        self.waiting.frames.push_back((epoch, chunk, committed));
        self.waiting.look_later();
    }

    /// Replay up to here waits for room in the store.
    pub(super) fn replay_later(&mut self, to: Position) {
        self.waiting.replay = self.waiting.replay.max(Some(to));
        self.waiting.look_later();
    }

    /// The store took only a part of what was to be replayed.
    pub(super) fn store_full(&mut self, to: Position) {
        self.replay_sent = self.shared.replayed.load();
        self.replay_later(to);
    }

    /// Goes on as far as there is room.
    pub(super) fn look_for_room(&mut self) {
        if self.waiting.look_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.waiting.look_at = None;
        while !self.waiting.frames.is_empty() && self.room().look().takes_log() {
            if let Some((epoch, chunk, committed)) = self.waiting.frames.pop_front() {
                self.waiting.frame_bytes -= chunk.bytes.len();
                self.take_chunk(epoch, chunk, Some(committed));
            }
        }
        if let Some(to) = self.waiting.replay.take() {
            self.replay_to(to);
        }
        if !self.waiting.frames.is_empty() {
            self.waiting.look_later();
        }
    }
}
