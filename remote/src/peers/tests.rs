//! More than one link to a peer, in a simulation.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix::{Actor, Context, Handler};
use tokio::time::sleep;

use crate::close::Code;
use crate::handshake;
use crate::sim::{Faults, Sim};
use crate::{ActorId, Address, Node, Role};

const SOON: Duration = Duration::from_secs(4);

#[derive(serde::Serialize, serde::Deserialize)]
struct Load(u32, Vec<u8>);

crate::messages!(0x01 Load => ());

struct Hold(Arc<Mutex<Vec<u32>>>);

impl Actor for Hold {
    type Context = Context<Self>;
}

impl Handler<Load> for Hold {
    type Result = ();
    fn handle(&mut self, Load(number, _): Load, _: &mut Context<Self>) {
        self.0.lock().unwrap().push(number);
    }
}

#[test]
fn a_second_connection_reorders_nothing() {
    Sim::run(1, |sim| async move {
        let (runtime, authority) = (sim.runtime(), sim.authority().unwrap());
        let any: SocketAddr = (Ipv4Addr::UNSPECIFIED, 0).into();
        let bind = |role| Node::bind(authority.issue(role).unwrap(), any, &runtime).unwrap();
        let (head, worker) = (bind(Role::Head), bind(Role::Worker));
        let came = Arc::<Mutex<Vec<u32>>>::default();
        let arbiter = runtime.arbiter().unwrap();
        let actor = arbiter.spawn(8, {
            let came = Arc::clone(&came);
            move |_| Hold(came)
        });
        head.publish(ActorId(1), &actor).on::<Load>(&[Role::Worker]);
        let there = head.address().unwrap();
        worker.connect(there, SOON).await.unwrap();
        sim.set(Faults { rate: 256 << 10, ..Faults::default() });
        let hold = worker.actor::<Hold>(Address { node: head.id(), actor: ActorId(1) });
        let load = |number| Load(number, vec![0; 64 << 10]);
        for number in 0..20 {
            hold.tell(load(number), SOON).await.unwrap();
        }
        // As if it were reached at another of its addresses, while five seconds of messages are under way.
        let again = handshake::dial(Arc::clone(worker.shared()), there, Some(head.id()));
        tokio::time::timeout(20 * SOON, again).await.unwrap().unwrap();
        assert_eq!(worker.shared().peers.links().len(), 2);
        for number in 20..40 {
            hold.tell(load(number), SOON).await.unwrap();
        }
        sleep(20 * SOON).await;
        assert_eq!(*came.lock().unwrap(), (0..40).collect::<Vec<_>>());
        // The first one goes: the second is used.
        let first = worker.shared().peers.link(head.id()).unwrap();
        first.cut(Code::Bye, "");
        sleep(SOON).await;
        assert_eq!(worker.shared().peers.links().len(), 1);
        hold.ask(load(40), SOON).await.unwrap();
    });
}
