//! Messages that can travel.

use serde::{Serialize, de::DeserializeOwned};

use crate::answer::Respond;
use crate::stream::Items;

/// A message that has a number on the wire. Implemented by the derive [`RemoteMessage`](derive@crate::RemoteMessage), or
/// for several at once by [`messages!`](crate::messages).
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, regatta_remote::RemoteMessage)]
/// #[message(id = 0x0105, reply = u32)]
/// struct Add(u32);
/// ```
pub trait WireMessage: actix::Message<Result: Response> + Serialize + DeserializeOwned + Send + 'static {
    /// Its number on the wire: declared, never derived, so that renaming the type changes nothing.
    const ID: u32;
    /// Its name in errors and logs.
    const NAME: &'static str;
}

/// A message that can be told or asked to an actor in another process.
pub trait RemoteMessage: WireMessage + actix::Message<Result: Serialize + DeserializeOwned + Send + 'static> {}

impl<M> RemoteMessage for M
where
    M: WireMessage,
    M::Result: Serialize + DeserializeOwned + Send + 'static,
{
}

/// A message that an actor, also in another process, answers by a stream.
pub trait StreamMessage: WireMessage + actix::Message<Result = Items<Self::Item>> {
    /// What the stream is of.
    type Item: Serialize + DeserializeOwned + Send + 'static;
}

impl<M, T> StreamMessage for M
where
    M: WireMessage + actix::Message<Result = Items<T>>,
    T: Serialize + DeserializeOwned + Send + 'static,
{
    type Item = T;
}

/// What a message that travels is answered with: a value that serde knows, or [`Items`] of such values.
#[allow(private_bounds)] // nobody else is to implement it
pub trait Response: Respond {}

impl<T: Respond> Response for T {}

/// Declares messages: their number, type and reply, which is a value or a stream of them.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize)]
/// struct Add(u32);
/// #[derive(Serialize, Deserialize)]
/// struct Reset;
/// #[derive(Serialize, Deserialize)]
/// struct Count;
///
/// regatta_remote::messages! {
///     0x0101 Add => u32,
///     0x0102 Reset => (),
///     0x0103 Count => stream u64,
/// }
/// ```
///
/// Two messages of one invocation with the same number do not compile.
#[macro_export]
macro_rules! messages {
    ($($messages:tt)*) => {
        $crate::__messages!([] $($messages)*);
    };
}

/// One message after the other, because a reply has two forms.
#[doc(hidden)]
#[macro_export]
macro_rules! __messages {
    ([$($ids:literal)*]) => {
        const _: () = $crate::assert_distinct(&[$($ids),*]);
    };
    ([$($ids:literal)*] $(#[$meta:meta])* $id:literal $message:ty => stream $item:ty $(, $($rest:tt)*)?) => {
        $crate::__messages!(@one [$(#[$meta])*] $id, $message, $crate::Items<$item>);
        $crate::__messages!([$($ids)* $id] $($($rest)*)?);
    };
    ([$($ids:literal)*] $(#[$meta:meta])* $id:literal $message:ty => $reply:ty $(, $($rest:tt)*)?) => {
        $crate::__messages!(@one [$(#[$meta])*] $id, $message, $reply);
        $crate::__messages!([$($ids)* $id] $($($rest)*)?);
    };
    (@one [$($meta:tt)*] $id:literal, $message:ty, $reply:ty) => {
        $($meta)*
        impl $crate::actix::Message for $message {
            type Result = $reply;
        }

        impl $crate::WireMessage for $message {
            const ID: u32 = $id;
            const NAME: &'static str = ::core::stringify!($message);
        }
    };
}

#[doc(hidden)]
pub const fn assert_distinct(ids: &[u32]) {
    let mut a = 0;
    while a < ids.len() {
        let mut b = a + 1;
        while b < ids.len() {
            assert!(ids[a] != ids[b], "two messages have the same number");
            b += 1;
        }
        a += 1;
    }
}
