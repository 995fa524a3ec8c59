use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use regatta_remote::{ActorRef, Address, AskError, Authority};

use super::*;
use crate::{AuthorSpan, ClusterView, JobLog, JobRow, LogLine, LogsView, QueryRow, SpansView, TaskRecord, WorkerRow};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_question_of_another_version_is_refused_by_that_and_one_of_none_is_none() {
    let look = |text: &str| question::<Ask>(text);
    let ask = Ask::Query { query: "07".to_owned() };
    assert_eq!(look(&Look::new(&ask).0), Ok(ask));
    // Whatever else a later version has in it.
    assert_eq!(look(r#"{"regatta_view":2,"ask":{"sing":{}}}"#), Err(Refusal::Version { head: VIEW }));
    // Fields that this build does not know.
    let more = r#"{"regatta_view":1,"since":7,"ask":{"query":{"query":"07","colour":"red"}}}"#;
    assert_eq!(look(more), Ok(Ask::Query { query: "07".to_owned() }));
    let long = format!(r#"{{"regatta_view":1,"ask":{{"query":{{"query":"{}"}}}}}}"#, "0".repeat(MAX_QUESTION));
    for bad in ["", "[]", "{}", r#"{"regatta_view":1}"#, r#"{"regatta_view":1,"ask":"sing"}"#, &"[".repeat(9000), &long]
    {
        assert!(matches!(look(bad), Err(Refusal::Failed(_))), "{bad}");
    }
    assert_eq!(read(r#"{"regatta_view":2,"sung":true}"#), Err(Refusal::Version { head: 2 }));
    assert!(matches!(read(r#"{"regatta_view":1}"#), Err(Refusal::Failed(_))));
}

#[test]
fn an_answer_that_is_too_large_has_fewer_rows_and_says_what_is_left_out_or_is_none() {
    let worker = |worker| WorkerRow { worker, devices: vec!["x".repeat(500)], ..WorkerRow::default() };
    let view = ClusterView { workers: (0..5000).map(worker).collect(), ..ClusterView::default() };
    let text = reply(Ok(Answer::Cluster(Box::new(view))));
    assert!(text.len() <= MAX_ANSWER && text.len() > MAX_ANSWER / 4, "{}", text.len());
    let Ok(Answer::Cluster(view)) = read(&text) else { panic!("{text}") };
    assert_eq!(view.workers.first().map(|row| row.worker), Some(0));
    let mut profile = Profile { tasks: vec![TaskRecord::default(); 20_000], ..Profile::default() };
    let Ok(Answer::Profile(short)) = read(&reply(Ok(Answer::Profile(Box::new(profile.clone()))))) else { panic!() };
    assert_eq!((short.tasks.len(), short.dropped.tasks), (0, 20_000));
    profile.incomplete = vec!["x".repeat(MAX_ANSWER)];
    assert!(matches!(read(&reply(Ok(Answer::Profile(Box::new(profile))))), Err(Refusal::TooMuch(_))));
    // What is escaped takes six bytes for one.
    let line = |number| LogLine { number, text: "\x1b".repeat(4096), ..LogLine::default() };
    let view = LogsView { lines: (0..100).map(line).collect(), ..LogsView::default() };
    let Ok(Answer::Logs(short)) = read(&reply(Ok(Answer::Logs(Box::new(view))))) else { panic!() };
    let (shown, last) = (short.lines.len() as u64, short.lines.last().map(|line| line.number));
    assert_eq!((shown + short.missed, last, shown > 10), (100, Some(99), true));
    // Of a job's lines the first come, and the rest is asked for after them; of jobs all, with less of long arguments.
    let job = |job| JobRow { job, arguments: vec!["x".repeat(60_000)], ..JobRow::default() };
    let log = JobLog { row: job(1), lines: vec!["\x1b".repeat(8192); 100], next: 250, missed: 150 };
    let Ok(Answer::JobLog(short)) = read(&reply(Ok(Answer::JobLog(Box::new(log))))) else { panic!() };
    assert_eq!((short.next - 150, short.lines.len() > 10), (short.lines.len() as u64, true));
    let Ok(Answer::Jobs(short)) = read(&reply(Ok(Answer::Jobs((0..300).map(job).collect())))) else { panic!() };
    assert!(short.iter().map(|row| row.job).eq(0..300), "{} jobs", short.len());
    assert!(short.iter().all(|row| row.arguments[0].len() == ARGUMENTS && row.arguments[0].ends_with("x ...")));
    let Ok(Answer::Jobs(short)) = read(&reply(Ok(Answer::Jobs((0..2000).map(job).collect())))) else { panic!() };
    assert_eq!((short[0].job, short.len() >= 500), (0, true), "the newest, where they are too many");
    let wide = JobRow { arguments: vec!["ß\u{200b}".repeat(30_000)], ..JobRow::default() };
    let Ok(Answer::Jobs(short)) = read(&reply(Ok(Answer::Jobs(vec![wide; 30])))) else { panic!() };
    assert!(short.len() == 30 && short[0].arguments[0].len() <= ARGUMENTS, "cut between characters");
    let row = QueryRow { doing: "x".repeat(MAX_ANSWER), ..QueryRow::default() };
    assert!(matches!(read(&reply(Ok(Answer::Cancelled(Box::new(row))))), Err(Refusal::TooMuch(_))));
}

/// Says who has given an order, and answers every question by as many bytes as it may, when it is let.
struct Made(Arc<Mutex<Option<gate::Gate>>>);

/// A gate that futures wait at, without a runtime's types.
mod gate {
    use std::sync::{Arc, Mutex};
    use std::task::{Poll, Waker};

    #[derive(Clone, Default)]
    pub(super) struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

    impl Gate {
        pub(super) fn open(&self) {
            let mut gate = self.0.lock().unwrap();
            gate.0 = true;
            gate.1.drain(..).for_each(Waker::wake);
        }

        pub(super) async fn pass(self) {
            std::future::poll_fn(|cx| {
                let mut gate = self.0.lock().unwrap();
                if gate.0 {
                    return Poll::Ready(());
                }
                gate.1.push(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
    }
}

impl Head for Made {
    fn look(&self, ask: Ask) -> Answering {
        let gate = self.0.lock().unwrap().clone();
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.pass().await;
            }
            match ask {
                Ask::Profile { .. } => {
                    let incomplete = vec!["x".repeat(MAX_ANSWER - 10_000)];
                    Ok(Answer::Profile(Box::new(Profile { incomplete, ..Profile::default() })))
                }
                _ => Ok(Answer::Token("seen".to_owned())),
            }
        })
    }

    fn act(&self, order: Order, operator: NodeId) -> Answering {
        Box::pin(async move { Ok(Answer::Token(format!("{order:?} by {operator}"))) })
    }
}

struct Scene {
    runtime: Runtime,
    authority: Authority,
    head: Node,
    gate: Arc<Mutex<Option<gate::Gate>>>,
    _arbiter: regatta_remote::Arbiter,
}

impl Scene {
    fn new() -> Self {
        let (runtime, authority) = (Runtime::new("window", 2).unwrap(), Authority::new().unwrap());
        let head = Node::bind(authority.issue(Role::Head).unwrap(), here(), &runtime.with_build(&b"one"[..])).unwrap();
        let (arbiter, gate) = (runtime.arbiter().unwrap(), Arc::default());
        let (made, own) = (Arc::new(Made(Arc::clone(&gate))), runtime.clone());
        Window::publish(&head, &arbiter.spawn(MAILBOX, move |_| Window::new(made, own)));
        Self { runtime, authority, head, gate, _arbiter: arbiter }
    }

    /// A node of this role, of another build, and the window as it sees it.
    async fn node(&self, role: Role) -> (Node, ActorRef<Window>) {
        let build: &[u8] = if role.is_outside() { b"two" } else { b"one" };
        let identity = self.authority.issue(role).unwrap();
        let node = Node::bind(identity, here(), &self.runtime.with_build(build)).unwrap();
        node.connect(self.head.address().unwrap(), SOON).await.unwrap();
        let window = node.actor(Address { node: self.head.id(), actor: WINDOW });
        (node, window)
    }
}

fn here() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn ask() -> Look {
    Look::new(&Ask::Query { query: "07".to_owned() })
}

fn profile() -> Look {
    Look::new(&Ask::Profile { query: "07".to_owned() })
}

#[test]
fn observers_look_operators_look_and_act_and_nobody_else_does_either() {
    let scene = Scene::new();
    let act = || Act::new(&Order::Cancel { query: "07".to_owned() });
    scene.runtime.handle().block_on(async {
        for role in Role::ALL.into_iter().chain([Role::Own(7)]) {
            let (node, window) = scene.node(role).await;
            let (looked, acted) = (window.ask(ask(), SOON).await, window.ask(act(), SOON).await);
            let refused = |answer: &Result<String, AskError>| matches!(answer, Err(AskError::NotAllowed { role: of }) if *of == role);
            match role {
                Role::Observer | Role::Operator => {
                    assert_eq!(read(&looked.unwrap()), Ok(Answer::Token("seen".to_owned())));
                }
                _ => assert!(refused(&looked), "{role}: {looked:?}"),
            }
            match role {
                Role::Operator => {
                    let Ok(Answer::Token(text)) = read(&acted.unwrap()) else { panic!() };
                    assert!(text.contains("Cancel") && text.ends_with(&node.id().to_string()), "{text}");
                }
                _ => assert!(refused(&acted), "{role}: {acted:?}"),
            }
        }
    });
}

#[test]
fn a_viewer_that_asks_without_end_is_told_so_and_others_are_answered() {
    let scene = Scene::new();
    scene.runtime.handle().block_on(async {
        let gate = gate::Gate::default();
        *scene.gate.lock().unwrap() = Some(gate.clone());
        let ((_one, greedy), (_other, modest)) = (scene.node(Role::Observer).await, scene.node(Role::Observer).await);
        let (tell, told) = std::sync::mpsc::channel();
        for _ in 0..40 {
            let (greedy, tell) = (greedy.clone(), tell.clone());
            scene.runtime.handle().spawn(async move { tell.send(read(&greedy.ask(ask(), SOON).await.unwrap())) });
        }
        // Those beyond its share are answered while the others still wait.
        for _ in 0..36 {
            let why = told.recv_timeout(SOON).unwrap().unwrap_err().to_string();
            assert!(why.contains("4 questions of yours"), "{why}");
        }
        let modest = scene.runtime.handle().spawn(async move { modest.ask(ask(), SOON).await });
        gate.open();
        for _ in 0..4 {
            assert_eq!(told.recv_timeout(SOON).unwrap(), Ok(Answer::Token("seen".to_owned())));
        }
        assert!(read(&modest.await.unwrap().unwrap()).is_ok());
        // Nor is one given more bytes than its share, read or not.
        let mut given = 0;
        let why = loop {
            match read(&greedy.ask(profile(), SOON).await.unwrap()) {
                Ok(_) => given += 1,
                Err(why) => break why.to_string(),
            }
        };
        assert!(why.contains("4 MiB of late") && (4..=6).contains(&given), "{given}: {why}");
    });
}

#[test]
fn spans_that_are_left_out_of_an_answer_are_asked_for_after_it() {
    let span = |worker, number| AuthorSpan {
        number,
        worker: Some(worker),
        name: "\u{1}".repeat(128),
        ..AuthorSpan::default()
    };
    let all: Vec<_> = [7, 3].into_iter().flat_map(|worker| (11..=1500).map(move |number| (worker, number))).collect();
    let (mut seen, mut after) = (Vec::new(), vec![(3, 10), (7, 10)]);
    while after != [(3, 1500), (7, 1500)] {
        let is_new = |(worker, number): &&(u32, u64)| after.iter().any(|(of, after)| of == worker && number > after);
        let spans = all.iter().filter(is_new).map(|(worker, number)| span(*worker, *number)).collect();
        let view = SpansView { spans, next: vec![(3, 1500), (7, 1500)], ..SpansView::default() };
        let Ok(Answer::Spans(view)) = read(&reply(Ok(Answer::Spans(Box::new(view))))) else { panic!() };
        assert_eq!(view.missed, 0);
        seen.extend(view.spans.iter().map(|span| (span.worker.unwrap(), span.number)));
        after = view.next;
    }
    assert_eq!(seen, all);
}
