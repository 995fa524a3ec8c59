//! Messages that can travel.

use serde::{Serialize, de::DeserializeOwned};

/// A message that can be sent to an actor in another process. Implemented by the derive of the same name, or for
/// several at once by [`messages!`](crate::messages).
///
/// ```
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, regatta_remote::RemoteMessage)]
/// #[message(id = 0x0105, reply = u32)]
/// struct Add(u32);
/// ```
pub trait RemoteMessage:
    actix::Message<Result: Serialize + DeserializeOwned + Send + 'static> + Serialize + DeserializeOwned + Send + 'static
{
    /// Its number on the wire: declared, never derived, so that renaming the type changes nothing.
    const ID: u32;
    /// Its name in errors and logs.
    const NAME: &'static str;
}

/// Declares messages: their number, type and reply.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize)]
/// struct Add(u32);
/// #[derive(Serialize, Deserialize)]
/// struct Reset;
///
/// regatta_remote::messages! {
///     0x0101 Add => u32,
///     0x0102 Reset => (),
/// }
/// ```
///
/// Two messages of one invocation with the same number do not compile.
#[macro_export]
macro_rules! messages {
    ($( $(#[$meta:meta])* $id:literal $message:ty => $reply:ty ),* $(,)?) => {
        $(
            $(#[$meta])*
            impl $crate::actix::Message for $message {
                type Result = $reply;
            }

            impl $crate::RemoteMessage for $message {
                const ID: u32 = $id;
                const NAME: &'static str = ::core::stringify!($message);
            }
        )*

        const _: () = $crate::assert_distinct(&[$($id),*]);
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
