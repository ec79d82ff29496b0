//! How a command fails: a stable code, a message, a hint, and the exit code that follows from them.
//!
//! | exit code | meaning | what a script does |
//! | --- | --- | --- |
//! | 0 | done | goes on |
//! | 1 | failed | stops |
//! | 2 | the command line is wrong | mends the call |
//! | 3 | refused | fixes what the hint says, then repeats |
//! | 4 | unavailable, or the outcome is open | waits and repeats |
//! | 5 | partly done (an import with bad lines) | looks at the report |

use std::fmt;
use std::io;
use std::process::ExitCode;

use keelson_client::ClientError;
use keelson_server::Problem;
use keelson_types::RefusalReason;

use crate::output;

/// The exit codes, see the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Unavailable = 4,
    Partly = 5,
}

/// A command that did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) hint: String,
    pub(crate) exit: Exit,
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A refusal found on this side.
    pub(crate) fn new(reason: RefusalReason, message: impl Into<String>) -> Self {
        ClientError::new(reason, message).into()
    }

    /// A wrong combination of arguments that the parser cannot see.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: "usage".into(), message: message.into(), hint: hint.into(), exit: Exit::Usage }
    }

    /// What the parser said: its first paragraph is the message, tips and usage are the hint.
    pub(crate) fn unparsed(text: &str) -> Self {
        let text = text.strip_prefix("error: ").unwrap_or(text);
        let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = rest.lines().map(line).filter(|line| !line.is_empty());
        let hint: Vec<_> = lines.map(|line| line.trim_start_matches("tip: ").to_owned()).collect();
        Self::usage(line(message), hint.join("; "))
    }

    /// A local failure with no reason of its own.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self {
            code: "failed".into(),
            message: message.into(),
            hint: String::new(),
            exit: Exit::Failed,
        }
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(path: &std::path::Path, error: &io::Error) -> Self {
        Self {
            code: "file".into(),
            message: format!("{}: {error}", path.display()),
            hint: "check the path and its rights".into(),
            exit: Exit::Failed,
        }
    }

    /// Part of the work is done.
    pub(crate) fn partly(message: impl Into<String>) -> Self {
        let reason = RefusalReason::BadInput;
        Self {
            code: reason.code().0.into(),
            message: message.into(),
            hint: reason.hint().into(),
            exit: Exit::Partly,
        }
    }

    /// Puts what was being done before the message.
    pub(crate) fn during(mut self, doing: &str) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// The same with advice that fits this command better than that of the reason.
    pub(crate) fn hinting(self, hint: &str) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// Whether the same command may succeed later without anybody fixing anything.
    pub(crate) fn may_pass(&self) -> bool {
        self.exit == Exit::Unavailable
    }

    /// Prints the failure and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (on, off) =
            if output::colour(&io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        eprintln!("{on}error[{}]{off}: {}", self.code, self.message);
        if !self.hint.is_empty() {
            eprintln!("hint: {}", self.hint);
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error.reason {
            RefusalReason::Internal => Exit::Failed,
            RefusalReason::OutcomeUnknown => Exit::Unavailable,
            _ if error.is_retryable() => Exit::Unavailable,
            _ => Exit::Refused,
        };
        Self { code: error.code().into(), hint: error.hint().into(), message: error.message, exit }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        anyhow::Error::from(problem).into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        if let Some(problem) = error.chain().find_map(|e| e.downcast_ref::<Problem>()) {
            let mut message = problem.message.clone();
            let mut cause = std::error::Error::source(problem);
            while let Some(error) = cause {
                message += &format!(": {error}");
                cause = error.source();
            }
            let (code, hint) = (problem.code.into(), problem.hint.clone());
            return Self { code, message, hint, exit: Exit::Refused };
        }
        if let Some(refused) = error.chain().find_map(|e| e.downcast_ref::<keelson_wire::Refusal>())
        {
            return Self::from(ClientError::from(refused.clone())).with_chain(&error);
        }
        Self::local(format!("{error:#}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::local(error.to_string())
    }
}

impl Failure {
    fn with_chain(mut self, error: &anyhow::Error) -> Self {
        self.message = format!("{error:#}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_parser_says_has_the_form_of_every_refusal() {
        let text = "error: unexpected argument '-1' found\n\n  \
                    tip: to pass '-1' as a value, use '-- -1'\n\n\
                    Usage: keelson copy set [OPTIONS] <COPY>\n\n\
                    For more information, try '--help'.\n";
        let failure = Failure::unparsed(text);
        assert_eq!((failure.code.as_str(), failure.exit), ("usage", Exit::Usage));
        assert_eq!(failure.message, "unexpected argument '-1' found");
        assert!(failure.hint.starts_with("to pass '-1' as a value"), "{}", failure.hint);
        assert!(failure.hint.ends_with("try '--help'."), "{}", failure.hint);
    }

    #[test]
    fn exit_codes_tell_fixing_from_waiting() {
        let exit = |reason| Failure::new(reason, "").exit;
        assert_eq!(exit(RefusalReason::UnknownDatabase), Exit::Refused);
        assert_eq!(exit(RefusalReason::NoLeader), Exit::Unavailable);
        assert_eq!(exit(RefusalReason::Unreachable), Exit::Unavailable);
        assert_eq!(exit(RefusalReason::OutcomeUnknown), Exit::Unavailable);
        assert_eq!(exit(RefusalReason::Internal), Exit::Failed);
    }
}
