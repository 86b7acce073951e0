use std::collections::BTreeMap;

use super::*;

#[derive(Default)]
struct World {
    files: BTreeMap<PathBuf, String>,
}

impl Source for World {
    fn file(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn files_in(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(self.files.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn variable(&self, _: &str) -> Option<OsString> {
        None
    }
}

const FILE: &str = "/etc/rollcall/collector.toml";

fn nobody(_: &Config) -> Result<(Vec<String>, Vec<String>), Failure> {
    Ok(Default::default())
}

fn checked(world: &World, args: SetupArgs) -> Result<Config, String> {
    let text = file::text(&given(&args, Earlier::read(world, Path::new(FILE))));
    let checked = check(world, Path::new(FILE), &text, &nobody);
    checked.map(|(config, _)| config).map_err(|failure| failure.to_string())
}

#[test]
fn flags_and_defaults_make_a_configuration_that_the_loader_takes() {
    let config = checked(&World::default(), SetupArgs::default()).unwrap();
    assert_eq!(config.http_listen.to_string(), DEFAULT_HTTP);
    let args = SetupArgs {
        name: Some("main".into()),
        advertise: Some("collector.example.net, 192.0.2.7:7000,2001:db8::7".into()),
        trust_domain: Some("fleet.example".into()),
        tls_cert: Some("/etc/web.pem".into()),
        tls_key: Some("/etc/web.key".into()),
        state_dir: Some("/srv/rollcall".into()),
        ..SetupArgs::default()
    };
    let config = checked(&World::default(), args).unwrap();
    let advertise: Vec<String> = config.advertise.iter().map(ToString::to_string).collect();
    assert_eq!(advertise, ["collector.example.net:7411", "192.0.2.7:7000", "[2001:db8::7]:7411"]);
    assert_eq!((config.name.as_str(), config.http_listen.to_string().as_str()), ("main", EVERYWHERE));
    assert_eq!(
        (config.trust_domain.as_str(), config.state_dir.as_path()),
        ("fleet.example", Path::new("/srv/rollcall"))
    );
    let names = ["*.example.net".to_owned(), "rollcall.example.net".to_owned()];
    assert_eq!(login::api_of(&config, &names), "https://rollcall.example.net:7410");
    let proxy = SetupArgs { reverse_proxy: Some("web.example.net".into()), ..SetupArgs::default() };
    assert_eq!(login::api_of(&checked(&World::default(), proxy).unwrap(), &[]), "https://web.example.net");
}

/// A second run changes what it is told to change: a trust domain is not lost by leaving its flag out.
#[test]
fn what_stands_there_already_is_the_default() {
    let mut world = World::default();
    let first = SetupArgs {
        name: Some("main".into()),
        trust_domain: Some("fleet.example".into()),
        advertise: Some("a.example".into()),
        tls_cert: Some("/etc/web.pem".into()),
        tls_key: Some("/etc/web.key".into()),
        http_listen: Some("0.0.0.0:443".into()),
        ..SetupArgs::default()
    };
    let text = file::text(&given(&first, Earlier::default()));
    world.files.insert(FILE.into(), text.clone());
    let again = given(&SetupArgs::default(), Earlier::read(&world, Path::new(FILE)));
    assert_eq!(file::text(&again), text);
    let proxy = SetupArgs { reverse_proxy: Some("web.example".into()), ..SetupArgs::default() };
    let proxied = given(&proxy, Earlier::read(&world, Path::new(FILE)));
    assert_eq!((proxied.tls, proxied.http_listen.as_str()), (None, DEFAULT_HTTP));
    assert_eq!(
        (proxied.trust_domain.as_str(), proxied.advertise.as_slice()),
        ("fleet.example", ["a.example:7411".into()].as_slice())
    );
}

#[test]
fn what_the_loader_refuses_is_not_proposed() {
    let open = SetupArgs { http_listen: Some("0.0.0.0:7410".into()), ..SetupArgs::default() };
    let shown = checked(&World::default(), open).unwrap_err();
    assert!(shown.contains("collector.toml:") && shown.contains("unencrypted"), "{shown}");
    let strange = SetupArgs { name: Some("a\"\nttl = \"1s".into()), ..SetupArgs::default() };
    let shown = checked(&World::default(), strange).unwrap_err();
    assert!(shown.contains("collector name") && !shown.contains("ttl: "), "a name stays one: {shown}");
    // What lies over the file is judged with it.
    let mut world = World::default();
    world.files.insert("/etc/rollcall/collector.d/9.toml".into(), "http_listen = '0.0.0.0:1'".into());
    assert!(checked(&world, SetupArgs::default()).unwrap_err().contains("collector.d/9.toml:1: http_listen"));
}
