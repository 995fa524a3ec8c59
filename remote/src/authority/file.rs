//! An authority in a file, so that a head which starts again is of the same cluster.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, Made, NAME};
use crate::ambient::Ambient;
use crate::error::IdentityError;
use crate::identity::fingerprint;
use crate::ids::ClusterId;

/// More than any file of ours has.
const LARGEST: u64 = 64 << 10;

impl Authority {
    /// The authority whose certificate and key are in this file, in PEM; if there is no such file, a new one, which is
    /// written there. A head that is started again with it is of the same cluster: nodes that it has let in connect to it
    /// as they are, for as long as their certificates last.
    ///
    /// Who can read the file can make nodes of any role. It is made for its owner alone (mode 0600), and refused when
    /// others may read or write it. One process at a time is to use it.
    ///
    /// Tokens, how often each was used, who was [given up](crate::Node::give_up) and the names of actors are of the
    /// process: they end with it. To expel a node for good, revoke its token and wait until its certificate has expired
    /// before the head is started again, or begin a new cluster by removing the file.
    ///
    /// # Errors
    /// The file cannot be read or made, is open to others, or is not of an authority.
    pub fn kept(path: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = path.as_ref();
        let failed = |why: String| IdentityError::File { path: path.to_owned(), why };
        let text = match read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = Made::new(&Ambient::System)?;
                match write(path, &new.pem()) {
                    Ok(()) => return new.into_authority(Ambient::System),
                    // Somebody else has just made one.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
                    Err(error) => return Err(failed(format!("it cannot be written: {error}"))),
                }
            }
            text => text,
        };
        let text = text.map_err(|error| failed(format!("it cannot be read: {error}")))?;
        of_pem(&text).map_err(failed)
    }
}

impl Made {
    fn pem(&self) -> String {
        format!("{}{}", self.certificate.pem(), self.key.serialize_pem())
    }
}

/// The authority that a file's text is of, or why it is of none.
fn of_pem(text: &[u8]) -> Result<Authority, String> {
    let of = |what: &str, error: &dyn ToString| format!("{what} in it is unusable: {}", error.to_string());
    let certificate = CertificateDer::from_pem_slice(text).map_err(|error| of("the certificate", &error))?;
    let key = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|error| of("the key", &error))?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).map_err(|error| of("the key", &error))?;
    if fingerprint(&certificate).as_ref().map(<[u8; 32]>::as_slice)
        != Some(digest(&SHA256, &key.subject_public_key_info()).as_ref())
    {
        return Err("the key in it is not that of the certificate".to_owned());
    }
    let cluster = cluster_of(&certificate).ok_or("the certificate in it is not of a cluster's authority")?;
    Authority::signing_with(cluster, &certificate, key, Ambient::System).map_err(|error| error.to_string())
}

fn cluster_of(certificate: &[u8]) -> Option<ClusterId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    if !certificate.is_ca() {
        return None;
    }
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    u128::from_str_radix(name.strip_prefix(NAME)?, 16).ok().map(ClusterId)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let about = file.metadata()?;
    if about.len() > LARGEST {
        return Err(io::Error::other("it is too large for an authority's"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = about.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let text = format!("others than its owner have access (mode {mode:04o}): chmod 600 it, if nobody had");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, LARGEST), &mut text)?;
    Ok(text)
}

/// Makes the file, whole or not at all.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".{}.new", std::process::id()));
    let written = (|| {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::hard_link(&unfinished, path)?; // in place of no other, as a rename would be
        File::open(folder)?.sync_all()
    })();
    let _ = fs::remove_file(&unfinished); // where it was not made, it is not there
    written
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::CertificateParams;

    use super::*;
    use crate::ids::Role;

    /// A folder that is removed with all that is in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("regatta-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn why(path: &Path) -> String {
        Authority::kept(path).unwrap_err().to_string()
    }

    #[test]
    fn a_kept_authority_is_the_same_again_and_its_file_is_its_owners_alone() {
        let folder = Folder::new("kept");
        let path = folder.0.join("authority.pem");
        let first = Authority::kept(&path).unwrap();
        let again = Authority::kept(&path).unwrap();
        assert_eq!((first.cluster, first.fingerprint), (again.cluster, again.fingerprint));
        let identity = first.issue(Role::Worker).unwrap();
        assert_eq!(identity.authority(), again.issue(Role::Worker).unwrap().authority());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing else is left there");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            mode(0o640);
            let why = why(&path);
            assert!(why.contains("0640") && why.contains("chmod 600") && why.contains("authority.pem"), "{why}");
            mode(0o400);
            Authority::kept(&path).unwrap();
        }
    }

    #[test]
    fn what_is_not_an_authoritys_is_an_error_and_left_as_it_is() {
        let folder = Folder::new("not-kept");
        let made = || Made::new(&Ambient::System).unwrap();
        let (one, other) = (made(), made());
        let mixed = format!("{}{}", one.certificate.pem(), other.key.serialize_pem());
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let of_a_node = CertificateParams::default().self_signed(&key).unwrap().pem() + &key.serialize_pem();
        let whole = one.pem();
        for (number, (text, part)) in [
            ("", "certificate"),
            ("hello", "certificate"),
            (&whole[..whole.len() / 2], ""),
            (&one.certificate.pem(), "key"),
            (&mixed, "not that of the certificate"),
            (&of_a_node, "not of a cluster's authority"),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.0.join(number.to_string());
            write(&path, text).unwrap();
            let why = why(&path);
            assert!(why.contains(part) && why.contains(path.to_str().unwrap()), "{why}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(why(&folder.0.join("no/such/folder")).contains("cannot be written"));
        let large = folder.0.join("large");
        write(&large, &"x".repeat(LARGEST as usize + 1)).unwrap();
        assert!(why(&large).contains("too large"));
    }
}
