//! Requests and their answers over one socket.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;

use super::attribute;
use crate::{NetlinkError, Refusal};

/// What carries datagrams to the kernel and back.
pub(super) trait Transport {
    fn send(&mut self, requests: &[u8]) -> io::Result<()>;

    /// Replaces what is in `answer` by the next datagram.
    fn receive(&mut self, answer: &mut Vec<u8>) -> io::Result<()>;
}

/// The side of the conversation that counts messages.
pub(super) struct Exchange<S> {
    transport: S,
    sequence: u32,
    requests: Vec<u8>,
    answer: Vec<u8>,
}

/// One message to the kernel.
pub(super) struct Request {
    pub(super) message: RouteNetlinkMessage,
    /// Besides NLM_F_REQUEST.
    pub(super) flags: u16,
}

/// What came of one request: the payloads of the messages that answer it, or the kernel's refusal.
pub(super) type Answer = Result<Vec<Vec<u8>>, Refusal>;

/// How many requests travel together. The kernel queues an answer of up to 1.3 kB to each that it refuses before the
/// first is read, and a socket's queue takes 208 kB unless the administrator changed it.
const BATCH_MAX: usize = 64;

/// How often a list is read again that changed while it was read. amazon-vpc-cni-k8s finds 5 enough.
const DUMP_TRIES: usize = 5;

/// The kernel makes datagrams of at most 32 kB unless a single message needs more.
const ANSWER_LEN: usize = 64 * 1024;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

impl<S: Transport> Exchange<S> {
    pub(super) fn new(transport: S) -> Self {
        let answer = Vec::with_capacity(ANSWER_LEN);
        Self { transport, sequence: 0, requests: Vec::new(), answer }
    }

    pub(super) fn transport_mut(&mut self) -> &mut S {
        &mut self.transport
    }

    /// Sends requests together and returns what came of each, in their order.
    pub(super) fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Answer>, NetlinkError> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let together: Vec<_> = requests.by_ref().take(BATCH_MAX).collect();
            self.send_together(together, &mut answers)?;
        }
        Ok(answers)
    }

    fn send_together(
        &mut self,
        requests: Vec<Request>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), NetlinkError> {
        let (count, base) = (requests.len(), answers.len());
        let first = self.sequence.wrapping_add(1);
        self.requests.clear();
        for (i, request) in requests.into_iter().enumerate() {
            // The kernel handles them in order, and answers those it refuses in any case: when the last is
            // acknowledged, every other one that was not refused is done. One datagram comes back instead of many.
            let acknowledge = if i + 1 == count { NLM_F_ACK } else { 0 };
            self.push(request.message, request.flags | acknowledge);
        }
        self.transport.send(&self.requests).map_err(|source| NetlinkError::Send { source })?;

        answers.resize_with(base + count, || Ok(Vec::new()));
        let answers = &mut answers[base..];
        loop {
            self.transport
                .receive(&mut self.answer)
                .map_err(|source| NetlinkError::Receive { source })?;
            for message in messages(&self.answer) {
                let message = message?;
                let index = message.sequence.wrapping_sub(first) as usize;
                // What is not within answers a request that was given up.
                let Some(answer) = answers.get_mut(index) else {
                    continue;
                };
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(NetlinkError::Decode { what: "overrun" }),
                    NLMSG_ERROR | NLMSG_DONE => {
                        if let Some(refusal) = message.refusal()? {
                            *answer = Err(refusal);
                        }
                        if index + 1 == count {
                            return Ok(());
                        }
                    }
                    _ => {
                        if let Ok(payloads) = answer {
                            payloads.push(message.payload.to_vec());
                        }
                    }
                }
            }
        }
    }

    /// Lists objects, again from the beginning where the kernel says that they changed meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        what: &'static str,
        request: &RouteNetlinkMessage,
        decode: impl Fn(&[u8]) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            if let Some(objects) = self.dump_once(what, request.clone(), &decode)? {
                return Ok(objects);
            }
        }
        Err(NetlinkError::Interrupted { what, tries: DUMP_TRIES })
    }

    fn dump_once<T>(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        decode: impl Fn(&[u8]) -> Result<Option<T>, NetlinkError>,
    ) -> Result<Option<Vec<T>>, NetlinkError> {
        self.requests.clear();
        self.push(request, NLM_F_DUMP);
        self.transport.send(&self.requests).map_err(|source| NetlinkError::Send { source })?;

        let mut objects = Vec::new();
        let mut interrupted = false;
        loop {
            self.transport
                .receive(&mut self.answer)
                .map_err(|source| NetlinkError::Receive { source })?;
            for message in messages(&self.answer) {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_OVERRUN => return Err(NetlinkError::Decode { what: "overrun" }),
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match message.refusal()? {
                            Some(refusal) => Err(NetlinkError::Refused { what, refusal }),
                            None => Ok((!interrupted).then_some(objects)),
                        };
                    }
                    _ => objects.extend(decode(message.payload)?),
                }
            }
        }
    }

    fn push(&mut self, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = self.requests.len();
        let len = message.buffer_len();
        self.requests.resize(start + len.next_multiple_of(4), 0);
        message.serialize(&mut self.requests[start..start + len]);
    }
}

/// One message of a datagram.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) payload: &'a [u8],
}

impl Message<'_> {
    /// Returns what the kernel refused and why, if this is a refusal and not an acknowledgement.
    fn refusal(&self) -> Result<Option<Refusal>, NetlinkError> {
        let code = match (self.payload.first_chunk(), self.kind) {
            (Some(bytes), _) => i32::from_ne_bytes(*bytes),
            (None, NLMSG_DONE) => 0,
            (None, _) => {
                return Err(NetlinkError::Decode { what: "error message cut short" });
            }
        };
        if code == 0 {
            return Ok(None);
        }
        // The socket asked that of the refused request only the header be returned.
        let attributes = match self.kind {
            NLMSG_DONE => self.payload.get(4..),
            _ => self.payload.get(4 + 16..),
        };
        let says = attributes
            .filter(|_| self.flags & NLM_F_ACK_TLVS != 0)
            .and_then(attribute::text_of_extended_acknowledgement);
        // The smallest number has no counterpart; no kernel says it.
        Ok(Some(Refusal { errno: code.checked_neg(), says }))
    }
}

pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, NetlinkError>> {
    let mut rest = datagram;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Ok(buffer) = NetlinkBuffer::new_checked(rest) else {
            rest = &[];
            return Some(Err(NetlinkError::Decode { what: "message cut short" }));
        };
        let message = Message {
            kind: buffer.message_type(),
            flags: buffer.flags(),
            sequence: buffer.sequence_number(),
            payload: buffer.payload(),
        };
        let len = (buffer.length() as usize).next_multiple_of(4);
        rest = rest.get(len..).unwrap_or_default();
        Some(Ok(message))
    })
}

/// One message of a datagram of another protocol than rtnetlink.
pub(crate) enum Framed<'a> {
    /// A list is at its end, or what was asked is done.
    Done,
    /// The kernel refused the request, with an error number.
    Refused(io::Error),
    /// Anything else, without its header.
    Message(&'a [u8]),
}

/// Returns the messages of a datagram up to the first that is cut short.
pub(crate) fn frames(datagram: &[u8]) -> impl Iterator<Item = Framed<'_>> {
    messages(datagram).map_while(Result::ok).filter_map(|message| {
        Some(match message.kind {
            NLMSG_NOOP => return None,
            NLMSG_ERROR | NLMSG_DONE => match message.refusal() {
                Ok(None) => Framed::Done,
                Ok(Some(refusal)) => {
                    Framed::Refused(io::Error::from_raw_os_error(refusal.errno.unwrap_or_default()))
                }
                Err(error) => Framed::Refused(io::Error::other(error)),
            },
            _ => Framed::Message(message.payload),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use netlink_packet_route::rule::RuleMessage;

    use super::*;

    #[test]
    fn interrupted_dump_is_read_again() {
        let done = |flags| message(NLMSG_DONE, flags, 0, &[0; 4]);
        let object = |flags, byte| message(32, flags, 0, &[byte; 4]);
        let cases = [
            ("not interrupted", vec![[object(0, 1), done(0)].concat()], Ok(vec![1]), 1),
            (
                "in the first part",
                vec![object(NLM_F_DUMP_INTR, 1), done(0), object(0, 2), done(0)],
                Ok(vec![2]),
                2,
            ),
            (
                "at the end",
                vec![object(0, 1), done(NLM_F_DUMP_INTR), object(0, 2), done(0)],
                Ok(vec![2]),
                2,
            ),
            ("each time", vec![done(NLM_F_DUMP_INTR); DUMP_TRIES], Err("Interrupted"), DUMP_TRIES),
        ];
        for (case, answers, expected, sends) in cases {
            let mut exchange =
                Exchange::new(Script { answers: answers.into(), sent: 0, sequence: 0 });
            let request = RouteNetlinkMessage::GetRule(RuleMessage::default());

            let actual = exchange.dump("rules", &request, |payload| Ok(payload.first().copied()));

            match (actual, expected) {
                (Ok(actual), Ok(expected)) => assert_eq!(actual, expected, "{case}"),
                (Err(NetlinkError::Interrupted { .. }), Err(_)) => {}
                (actual, expected) => panic!("{case}: {actual:?} instead of {expected:?}"),
            }
            assert_eq!(exchange.transport.sent, sends, "{case}");
        }
    }

    #[test]
    fn refusals_find_the_request_that_they_answer() {
        let refused = [(-17i32).to_ne_bytes().to_vec(), vec![0; 16]].concat();
        let accepted = [0i32.to_ne_bytes().to_vec(), vec![0; 16]].concat();
        // Of three requests the second is refused; the third, as the last, is acknowledged.
        let answers =
            [message(NLMSG_ERROR, 0, -1, &refused), message(NLMSG_ERROR, 0, 0, &accepted)];
        let mut exchange = Exchange::new(Script { answers: answers.into(), sent: 0, sequence: 0 });
        let request =
            || Request { message: RouteNetlinkMessage::NewRule(RuleMessage::default()), flags: 0 };

        let actual = exchange.batch(vec![request(), request(), request()]).unwrap();

        let errnos =
            actual.iter().map(|answer| answer.as_ref().err().and_then(|refusal| refusal.errno));
        assert_eq!(errnos.collect::<Vec<_>>(), [None, Some(17), None]);
        assert_eq!(exchange.transport.sent, 1);
    }

    #[test]
    fn answer_cut_short_is_an_error() {
        let mut short = message(NLMSG_ERROR, 0, 0, &[0; 20]);
        short.truncate(18);
        let mut exchange = Exchange::new(Script { answers: [short].into(), sent: 0, sequence: 0 });
        let request = RouteNetlinkMessage::GetRule(RuleMessage::default());

        let actual = exchange.dump("rules", &request, |_| Ok(Some(())));

        assert!(matches!(actual, Err(NetlinkError::Decode { .. })), "{actual:?}");
    }

    /// Plays answers back. Their sequence numbers count from the last request that was sent.
    struct Script {
        answers: VecDeque<Vec<u8>>,
        sent: usize,
        sequence: u32,
    }

    impl Transport for Script {
        fn send(&mut self, requests: &[u8]) -> io::Result<()> {
            self.sent += 1;
            self.sequence = messages(requests).last().unwrap().unwrap().sequence;
            Ok(())
        }

        fn receive(&mut self, answer: &mut Vec<u8>) -> io::Result<()> {
            *answer = self.answers.pop_front().ok_or(io::ErrorKind::TimedOut)?;
            let mut start = 0;
            while start + 16 <= answer.len() {
                let mut buffer = NetlinkBuffer::new(&mut answer[start..]);
                let sequence = buffer.sequence_number().wrapping_add(self.sequence);
                buffer.set_sequence_number(sequence);
                start += buffer.length() as usize;
            }
            Ok(())
        }
    }

    fn message(kind: u16, flags: u16, sequence: i32, payload: &[u8]) -> Vec<u8> {
        let len = 16 + payload.len();
        let mut bytes = vec![0; len];
        let mut buffer = NetlinkBuffer::new(&mut bytes);
        buffer.set_length(len as u32);
        buffer.set_message_type(kind);
        buffer.set_flags(flags);
        buffer.set_sequence_number(sequence as u32);
        bytes[16..].copy_from_slice(payload);
        bytes
    }
}
