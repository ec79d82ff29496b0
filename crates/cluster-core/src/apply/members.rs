//! Commands about the cluster and its members.

use keelson_types::{IncarnationId, MemberId, RefusalReason};

use super::{Applied, refuse};
use crate::command::{Answer, Command};
use crate::event::EventKind;
use crate::member::{Member, MemberActivation, MemberConfig};
use crate::state::{CERTIFIED_DEAD_MAX, ClusterState};

/// The new value, or the one there is.
fn or_keep<T: Clone>(new: &Option<T>, current: &T) -> T {
    new.as_ref().unwrap_or(current).clone()
}

impl ClusterState {
    pub(super) fn apply_member(&mut self, index: u64, command: &Command) -> Applied {
        match command {
            Command::InitCluster { cluster } => match self.cluster {
                Some(known) if known == *cluster => Ok(Answer::Done),
                Some(known) => refuse(
                    RefusalReason::ForeignCluster,
                    format!("this is cluster {known}, not {cluster}"),
                ),
                None => {
                    self.cluster = Some(*cluster);
                    self.event(index, None, None, EventKind::ClusterCreated);
                    Ok(Answer::Done)
                }
            },
            Command::AddMember { member } => self.add_member(index, member),
            Command::SetMember {
                member,
                control_address,
                data_address,
                replication_addresses,
                site,
                voter,
            } => {
                let config = &mut self.member_mut(*member)?.config;
                config.control_address = or_keep(control_address, &config.control_address);
                config.data_address = or_keep(data_address, &config.data_address);
                let replication = &config.replication_addresses;
                config.replication_addresses = or_keep(replication_addresses, replication);
                config.site = or_keep(site, &config.site);
                config.voter = voter.unwrap_or(config.voter);
                Ok(Answer::Done)
            }
            Command::RemoveMember { member } => self.remove_member(index, *member),
            Command::StartIncarnation { member, incarnation } => {
                self.start_incarnation(index, *member, *incarnation)
            }
            Command::ConfirmIncarnation { member, previous } => {
                let member = self.member_mut(*member)?;
                if member.previous.is_some_and(|waited_for| waited_for != *previous) {
                    return refuse(
                        RefusalReason::Precondition,
                        "the member waits for another incarnation to be over",
                    );
                }
                member.previous = None;
                Ok(Answer::Done)
            }
            Command::NoteSilence { member, incarnation, silent } => {
                self.note_silence(index, *member, *incarnation, *silent)
            }
            Command::PermitMounts { lives } => {
                for (id, life) in lives {
                    let member = self.members.get_mut(id).filter(|m| m.incarnation == Some(*life));
                    member.into_iter().for_each(|member| member.mount_permission = Some(*life));
                }
                Ok(Answer::Done)
            }
            Command::CertifyDeath { member, incarnation } => {
                self.end_incarnation(index, *member, *incarnation, true)
            }
            Command::ReleaseIncarnation { member, incarnation } => {
                self.end_incarnation(index, *member, *incarnation, false)
            }
            Command::RecoverSite(recovery) => self.recover_site(index, recovery),
            _ => refuse(RefusalReason::Internal, "not a command about members"),
        }
    }

    fn add_member(&mut self, index: u64, config: &MemberConfig) -> Applied {
        if let Some(known) = self.members.get(&config.id) {
            if known.config == *config {
                return Ok(Answer::Done);
            }
            return refuse(RefusalReason::AlreadyExists, format!("member {} exists", config.id));
        }
        let clash = |m: &&Member| m.config.name == config.name || m.config.node == config.node;
        if let Some(other) = self.members.values().find(clash) {
            let message = format!("member {} has this name or node id", other.config.id);
            return refuse(RefusalReason::AlreadyExists, message);
        }
        let member = Member {
            config: config.clone(),
            incarnation: None,
            previous: None,
            silent: None,
            mount_permission: None,
            certified_dead: Vec::new(),
            assignment_revision: index,
            activation: MemberActivation::default(),
            maintenance: None,
            stopped: None,
        };
        self.members.insert(config.id, member);
        self.event(index, Some(config.id), None, EventKind::MemberAdded);
        Ok(Answer::Done)
    }

    fn remove_member(&mut self, index: u64, id: MemberId) -> Applied {
        self.member_mut(id)?;
        let holds = self.databases.values().find(|database| database.copy_on(id).is_some());
        if let Some(database) = holds {
            let message = format!("the member holds a copy of {}", database.name);
            return refuse(RefusalReason::InUse, message);
        }
        self.members.remove(&id);
        self.event(index, Some(id), None, EventKind::MemberRemoved);
        Ok(Answer::Done)
    }

    fn note_silence(
        &mut self,
        index: u64,
        id: MemberId,
        incarnation: IncarnationId,
        silent: bool,
    ) -> Applied {
        let member = self.member_mut(id)?;
        if member.incarnation != Some(incarnation) {
            return refuse(RefusalReason::Precondition, "another incarnation is recorded");
        }
        let note = silent.then_some(incarnation);
        if member.silent != note {
            member.silent = note;
            let kind = match silent {
                true => EventKind::MemberSilent(incarnation),
                false => EventKind::MemberBack(incarnation),
            };
            self.event(index, Some(id), None, kind);
        }
        Ok(Answer::Done)
    }

    fn start_incarnation(
        &mut self,
        index: u64,
        id: MemberId,
        incarnation: IncarnationId,
    ) -> Applied {
        let member = self.member_mut(id)?;
        if member.certified_dead.contains(&incarnation) {
            return refuse(RefusalReason::Precondition, "this incarnation was certified dead");
        }
        if member.incarnation == Some(incarnation) {
            return Ok(Answer::Done);
        }
        if member.previous == Some(incarnation) {
            return refuse(RefusalReason::SecondHolder, "a later incarnation is recorded");
        }
        // While a predecessor is waited for, the recorded life gets no lease: it needs no waiting
        // for.
        member.previous = member.previous.or(member.incarnation);
        member.incarnation = Some(incarnation);
        self.event(index, Some(id), None, EventKind::MemberUp(incarnation));
        Ok(Answer::Done)
    }

    fn end_incarnation(
        &mut self,
        index: u64,
        id: MemberId,
        incarnation: IncarnationId,
        certified: bool,
    ) -> Applied {
        let member = self.member_mut(id)?;
        let known = !member.is_over(incarnation);
        let listed = member.certified_dead.contains(&incarnation);
        member.incarnation = member.incarnation.filter(|recorded| *recorded != incarnation);
        member.previous = member.previous.filter(|previous| *previous != incarnation);
        if certified && !listed {
            member.certified_dead.push(incarnation);
            let excess = member.certified_dead.len().saturating_sub(CERTIFIED_DEAD_MAX);
            member.certified_dead.drain(..excess);
        }
        if known {
            let kind = EventKind::MemberDown { incarnation, certified };
            self.event(index, Some(id), None, kind);
        }
        Ok(Answer::Done)
    }
}
