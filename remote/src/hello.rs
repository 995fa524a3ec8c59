//! What two nodes say first.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, NodeId, PeerId, Role};

/// Version of everything on the wire above the frame header.
pub(crate) const PROTOCOL: u16 = 4;
/// Longest hello.
pub(crate) const MAX_HELLO: u32 = 64 << 10;
/// Longest build description; leaves room for the hello's other fields.
pub(crate) const MAX_BUILD: usize = MAX_HELLO as usize - 256;

/// The first frame of lane 0, from both sides.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) role: Role,
    pub(crate) build: Vec<u8>,
}

impl Hello {
    pub(crate) fn new(peer: PeerId, build: &[u8]) -> Self {
        let PeerId { cluster, role, node } = peer;
        Self { protocol: PROTOCOL, cluster, node, role, build: build.to_vec() }
    }
}

/// The bytes of a hello frame, for tests that play a peer.
#[cfg(test)]
pub(crate) fn hello_frame(peer: PeerId, build: &[u8]) -> Vec<u8> {
    use crate::frame::{Header, Kind};
    let payload = crate::codec::encode(&Hello::new(peer, build)).unwrap();
    let header = Header { len: payload.len() as u32, ..Header::bare(Kind::Hello) };
    [header.encode().as_slice(), &payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    #[test]
    fn the_hello_keeps_its_bytes() {
        let (cluster, node): (ClusterId, NodeId) = decode(&[1, 2]).unwrap();
        let hello = Hello { protocol: 1, cluster, node, role: Role::Worker, build: b"build".to_vec() };
        let bytes = encode(&hello).unwrap();
        let golden = [1, 1, 2, 2, 5, b'b', b'u', b'i', b'l', b'd'];
        assert_eq!(bytes.as_ref(), golden);
        assert_eq!(decode::<Hello>(&golden).unwrap(), hello);
    }
}
