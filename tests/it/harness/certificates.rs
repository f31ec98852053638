//! A certificate authority with a server's and a client's certificate, made anew for a test by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// PEM files in one folder. The server's certificate is for `127.0.0.1` and `localhost`.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) server_certificate: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client_certificate: PathBuf,
    /// PKCS#8.
    pub(crate) client_key: PathBuf,
}

impl Certificates {
    /// Makes them in `folder`, which must exist. The client's common name is `triggerd-tests`.
    pub(crate) fn generate(folder: &Path) -> Result<Self> {
        openssl(
            folder,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=triggerd-tests-ca",
        )?;
        std::fs::write(
            folder.join("server.ext"),
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n",
        )?;
        std::fs::write(folder.join("client.ext"), "extendedKeyUsage=clientAuth\n")?;
        for (name, subject) in [("server", "/CN=localhost"), ("client", "/CN=triggerd-tests")] {
            openssl(
                folder,
                &format!(
                    "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj {subject}"
                ),
            )?;
            openssl(
                folder,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
                ),
            )?;
        }
        Ok(Self {
            ca: folder.join("ca.pem"),
            server_certificate: folder.join("server.pem"),
            server_key: folder.join("server.key"),
            client_certificate: folder.join("client.pem"),
            client_key: folder.join("client.key"),
        })
    }
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .context("openssl does not run; remedy: `make deps`")?;
    if !output.status.success() {
        bail!("openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
