//! Messages and the actors that take them.

use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Data, DeriveInput, Error, Generics, Ident, Item, LitInt, LitStr, Token, Type};

/// `#[derive(Message)]`; `home` is where the traits are.
pub(crate) fn expand_message(input: &DeriveInput, home: &Tokens) -> Result<Tokens, Error> {
    let ident = &input.ident;
    let example = "#[message(id = 0x0105, reply = Duration)]";
    if let Data::Union(data) = &input.data {
        return Err(Error::new_spanned(data.union_token, "a union cannot be a message: make it a struct or an enum"));
    }
    concrete(
        &input.generics,
        "a generic type cannot be a message, because each instance would need a number of its own",
    )?;
    let (mut id, mut reply): (Option<u32>, Option<Type>) = (None, None);
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("message")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("id") && id.is_none() {
                let number: LitInt = meta.value()?.parse()?;
                id = Some(number.base10_parse().map_err(|_| Error::new_spanned(&number, "a message's id is a u32"))?);
                Ok(())
            } else if meta.path.is_ident("reply") && reply.is_none() {
                reply = Some(meta.value()?.parse()?);
                Ok(())
            } else {
                Err(meta.error(format!("expected `id` and `reply`, once each: {example}")))
            }
        })?;
    }
    let Some(id) = id else {
        let text = format!(
            "a message needs a number, its own among the messages of an actor: {example}. It is declared, so that a new name \
             of the type changes nothing on the wire"
        );
        return Err(Error::new_spanned(ident, text));
    };
    let reply = reply.map_or_else(|| quote!(()), |reply| quote!(#reply));
    Ok(quote! {
        impl #home::actix::Message for #ident {
            type Result = #reply;
        }

        impl #home::WireMessage for #ident {
            const ID: u32 = #id;
            const NAME: &'static str = ::core::stringify!(#ident);
        }
    })
}

/// What `#[regatta::actor(...)]` is told.
pub(crate) struct Arguments {
    messages: Vec<Type>,
    name: Option<LitStr>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream<'_>) -> Result<Self, Error> {
        let mut arguments = Self { messages: Vec::new(), name: None };
        for argument in Punctuated::<Argument, Token![,]>::parse_terminated(input)? {
            match argument {
                Argument::Message(message) => arguments.messages.push(*message),
                Argument::Name(name) if arguments.name.is_some() => {
                    return Err(Error::new_spanned(name, "a second name"));
                }
                Argument::Name(name) => arguments.name = Some(name),
            }
        }
        Ok(arguments)
    }
}

enum Argument {
    Message(Box<Type>),
    Name(LitStr),
}

impl Parse for Argument {
    fn parse(input: ParseStream<'_>) -> Result<Self, Error> {
        if input.peek(Ident) && input.peek2(Token![=]) {
            let key: Ident = input.parse()?;
            if key != "name" {
                return Err(Error::new_spanned(key, "expected messages, and `name = \"...\"` if it needs another one"));
            }
            input.parse::<Token![=]>()?;
            return Ok(Self::Name(input.parse()?));
        }
        Ok(Self::Message(input.parse()?))
    }
}

/// `#[regatta::actor(Message, ...)]` on a struct or enum.
pub(crate) fn expand_actor(arguments: &Arguments, item: &Item) -> Result<Tokens, Error> {
    let (ident, generics) = match item {
        Item::Struct(item) => (&item.ident, &item.generics),
        Item::Enum(item) => (&item.ident, &item.generics),
        other => {
            return Err(Error::new_spanned(
                other,
                "#[regatta::actor(...)] goes on the struct or enum that is the actor",
            ));
        }
    };
    concrete(generics, "a generic actor cannot be registered, because each type would need a name of its own")?;
    let messages = &arguments.messages;
    if messages.is_empty() {
        let text = "name the messages that other processes may send to it: #[regatta::actor(Acquire, Reset)]";
        return Err(Error::new_spanned(ident, text));
    }
    let name = match &arguments.name {
        Some(name) if name.value().is_empty() => return Err(Error::new_spanned(name, "an actor's name is not empty")),
        Some(name) => quote!(#name),
        None => quote!(::core::concat!(::core::module_path!(), "::", ::core::stringify!(#ident))),
    };
    Ok(quote! {
        #item

        impl ::regatta::actor::RemoteActor for #ident {
            const NAME: &'static str = #name;

            fn publish(actor: ::regatta::actor::Publication<Self>) -> ::regatta::actor::Publication<Self> {
                actor #(.on::<#messages>(&::regatta::actor::EVERY_ROLE))*
            }
        }

        const _: () =
            ::regatta::actor::assert_distinct(&[#(<#messages as ::regatta::actor::WireMessage>::ID),*]);

        ::regatta::udf::inventory::submit! { ::regatta::actor::ActorEntry::of::<#ident>() }
    })
}

fn concrete(generics: &Generics, text: &str) -> Result<(), Error> {
    if generics.params.is_empty() { Ok(()) } else { Err(Error::new_spanned(generics, text)) }
}
