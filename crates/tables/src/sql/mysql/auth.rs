//! How a client of MariaDB or MySQL proves that it knows the password, by the plugins that the servers have.

use curve25519_dalek::{EdwardsPoint, Scalar};
use num_bigint::BigUint;
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha512};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::super::tls;

/// Asks for the RSA key of `caching_sha2_password`.
pub(super) const KEY_WANTED: u8 = 2;
/// The same in `sha256_password`.
const OLD_KEY_WANTED: u8 = 1;
/// What a server sends as salt, but for ed25519.
const SALT: usize = 20;

/// The password as it is, for a connection that nobody else can read.
pub(super) fn clear(password: &str) -> Vec<u8> {
    let mut bytes = password.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// What proves the password to the plugin; `None` for a plugin that we do not know.
pub(super) fn proof(plugin: &str, password: &str, salt: &[u8]) -> Option<Vec<u8>> {
    let twenty = &salt[..salt.len().min(SALT)];
    match plugin {
        "client_ed25519" => ed25519(password, salt.get(..32)?),
        "unix_socket" | "auth_socket" => Some(Vec::new()),
        "mysql_native_password" | "caching_sha2_password" if password.is_empty() => {
            Some(Vec::new())
        }
        "mysql_native_password" => {
            let once = Sha1::digest(password.as_bytes());
            let twice = Sha1::digest(once);
            let salted = Sha1::new()
                .chain_update(twenty)
                .chain_update(twice)
                .finalize();
            Some(xor(&once, &salted))
        }
        "caching_sha2_password" => {
            let once = Sha256::digest(password.as_bytes());
            let twice = Sha256::digest(once);
            let salted = Sha256::new()
                .chain_update(twice)
                .chain_update(twenty)
                .finalize();
            Some(xor(&once, &salted))
        }
        "sha256_password" => Some(vec![OLD_KEY_WANTED]),
        _ => None,
    }
}

pub(super) fn unknown_plugin(plugin: &str) -> String {
    let advice = match plugin {
        "mysql_clear_password" => {
            "it sends the password as it is, which needs the unix socket, or tls_CAfile and tls_verify_cert = yes"
        }
        _ => "let the user have mysql_native_password, ed25519 or caching_sha2_password",
    };
    format!("Authentication plugin '{plugin}' cannot be loaded: {advice}")
}

/// The password under the RSA key that the server has sent (PEM), mixed with the salt.
pub(super) fn encrypted(password: &str, salt: &[u8], key: &[u8]) -> Result<Vec<u8>, String> {
    let salt = &salt[..salt.len().min(SALT)];
    if salt.is_empty() {
        return Err("the server sent no salt".to_string());
    }
    let mixed: Vec<u8> = clear(password)
        .iter()
        .zip(salt.iter().cycle())
        .map(|(a, b)| a ^ b)
        .collect();
    let mut seed = [0; HASH];
    ring::default_provider()
        .secure_random
        .fill(&mut seed)
        .map_err(|_| "no random numbers from the operating system".to_string())?;
    rsa_oaep(key, &mixed, seed).ok_or_else(|| {
        "the server's RSA key cannot be used; use TLS (tls_CAfile) or the unix socket".to_string()
    })
}

const HASH: usize = 20;

/// RSAES-OAEP with SHA-1 (RFC 8017 7.1.1), as MySQL has it. The exponent is public and the same for all,
/// so nothing of the message shows in the time it takes.
fn rsa_oaep(key: &[u8], message: &[u8], mut seed: [u8; HASH]) -> Option<Vec<u8>> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(key).ok()?;
    let (modulus, exponent) = tls::rsa_numbers(&key)?;
    let modulus = BigUint::from_bytes_be(modulus);
    let exponent = BigUint::from_bytes_be(exponent);
    // Beyond that no server has a key, and an impostor would keep us computing.
    if modulus.bits() > 16_384 || exponent.bits() > 64 {
        return None;
    }
    let size = usize::try_from(modulus.bits().div_ceil(8)).ok()?;
    let padding = size.checked_sub(message.len() + 2 * HASH + 2)?;

    let mut data = Sha1::digest([]).to_vec();
    data.resize(HASH + padding, 0);
    data.push(1);
    data.extend_from_slice(message);
    mask(&mut data, &seed);
    mask(&mut seed, &data);
    let mut block = seed.to_vec();
    block.append(&mut data);

    let cipher = BigUint::from_bytes_be(&block)
        .modpow(&exponent, &modulus)
        .to_bytes_be();
    let mut padded = vec![0; size.checked_sub(cipher.len())?];
    padded.extend(cipher);
    Some(padded)
}

/// MGF1 (RFC 8017 B.2.1) of `seed`, over `data`.
fn mask(data: &mut [u8], seed: &[u8]) {
    for (counter, block) in (0u32..).zip(data.chunks_mut(HASH)) {
        let hash = Sha1::new()
            .chain_update(seed)
            .chain_update(counter.to_be_bytes())
            .finalize();
        block
            .iter_mut()
            .zip(hash)
            .for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// MariaDB's variant of Ed25519 (RFC 8032 5.1.6): the password itself stands for the 32 bytes of the key.
fn ed25519(password: &str, message: &[u8]) -> Option<Vec<u8>> {
    let hash: [u8; 64] = Sha512::digest(password.as_bytes()).into();
    let (secret, prefix) = hash.split_first_chunk::<32>()?;
    let secret = curve25519_dalek::scalar::clamp_integer(*secret);
    let public = EdwardsPoint::mul_base_clamped(secret).compress();
    let wide = |hash: Sha512| Scalar::from_bytes_mod_order_wide(&hash.finalize().into());
    let nonce = wide(Sha512::new().chain_update(prefix).chain_update(message));
    let commitment = EdwardsPoint::mul_base(&nonce).compress();
    let challenge = wide(
        Sha512::new()
            .chain_update(commitment.as_bytes())
            .chain_update(public.as_bytes())
            .chain_update(message),
    );
    let answer = nonce + challenge * Scalar::from_bytes_mod_order(secret);
    Some([commitment.to_bytes(), answer.to_bytes()].concat())
}

fn xor(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter().zip(right).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// The server's part, played by the `openssl` program: no MySQL is at hand that would ask for it.
    #[test]
    fn openssl_reads_the_encrypted_password() {
        if !testkit::peers() {
            return;
        }
        let dir = testkit::TempDir::new();
        let (key, public) = (dir.join("key"), dir.join("public"));
        let openssl = |arguments: &[&str]| {
            let mut command = Command::new(testkit::require("openssl"));
            let output = command.args(arguments).output().expect("openssl runs");
            assert!(output.status.success(), "{output:?}");
            output.stdout
        };
        let (key, public) = (key.display().to_string(), public.display().to_string());
        openssl(&["genrsa", "-out", &key, "2048"]);
        openssl(&["rsa", "-in", &key, "-pubout", "-out", &public]);
        let pem = std::fs::read(&public).expect("made above");
        let salt: Vec<u8> = (1..=20).collect();
        for password in ["", "pw", "a pässword that is longer than its salt"] {
            let secret = encrypted(password, &salt, &pem).expect("a good key");
            assert_eq!(secret.len(), 256);
            let file = dir.write("secret", &secret).display().to_string();
            let oaep = ["-pkeyopt", "rsa_padding_mode:oaep"];
            let decrypt = ["pkeyutl", "-decrypt", "-inkey", &key, "-in", &file];
            let mixed = openssl(&[&decrypt[..], &oaep[..]].concat());
            let salt = salt.iter().cycle();
            let plain: Vec<u8> = mixed.iter().zip(salt).map(|(a, b)| a ^ b).collect();
            assert_eq!(plain, clear(password));
        }
        let long = "x".repeat(300);
        assert!(encrypted(&long, &salt, &pem).is_err());
        assert!(encrypted("pw", &salt, b"junk").is_err());
        assert!(encrypted("pw", &[], &pem).is_err());
    }

    #[test]
    fn unknown_plugins_and_short_salts_prove_nothing() {
        assert_eq!(proof("dialog", "pw", &[1; 20]), None);
        assert_eq!(proof("client_ed25519", "pw", &[1; 20]), None);
    }

    /// Computed with another program, by the formulas of the two plugins' documentation.
    #[test]
    fn proofs() {
        let salt: Vec<u8> = (1..=20).chain([0]).collect();
        let hex =
            |bytes: Vec<u8>| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        for (plugin, expected) in [
            (
                "mysql_native_password",
                "4ed86edc39f549284d0215fff46ed31412d50b87",
            ),
            (
                "caching_sha2_password",
                "d37229d8ae966dc57a84e6a96a8a467b0bcf9f2113086483553684238666b290",
            ),
        ] {
            let proof = proof(plugin, "pä", &salt).expect("a known plugin");
            assert_eq!(hex(proof), expected, "{plugin}");
            assert_eq!(super::proof(plugin, "", &salt), Some(Vec::new()));
        }
    }
}
