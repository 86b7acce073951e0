use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

#[derive(Default)]
struct Paper(Mutex<Vec<u8>>);

impl CodeFile for Paper {
    fn read(&self) -> Option<Vec<u8>> {
        Some(self.0.lock().unwrap().clone())
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_code_is_found_where_it_lies_and_forgotten_there() {
    let paper = Arc::new(Paper::default());
    let logins = Logins::new(Arc::<Paper>::clone(&paper));
    let (filed, made, unknown) =
        (LoginCode::random().unwrap(), LoginCode::random().unwrap(), LoginCode::random().unwrap());
    *paper.0.lock().unwrap() = Kept::of(&filed, NOW).print().into_bytes();
    logins.add(Kept::of(&made, NOW), NOW);
    let place = logins.find(&filed, NOW).await.unwrap();
    assert!(matches!(place, Place::File));
    assert!(logins.find(&unknown, NOW).await.is_none());
    assert!(logins.find(&filed, NOW.after(Duration::from_secs(600))).await.is_none(), "it ends");
    logins.forget(&filed, NOW, &place).await;
    assert!(logins.find(&filed, NOW).await.is_none());
    let place = logins.find(&made, NOW).await.unwrap();
    assert!(matches!(place, Place::Memory));
    logins.forget(&made, NOW, &place).await;
    assert!(logins.find(&made, NOW).await.is_none());
    *paper.0.lock().unwrap() = b"rubbish".to_vec();
    assert!(logins.find(&filed, NOW).await.is_none());
}

#[tokio::test]
async fn codes_in_memory_are_few() {
    let logins = Logins::new(Arc::new(Paper::default()));
    let codes: Vec<_> = (0..MAX_CODES + 4).map(|_| LoginCode::random().unwrap()).collect();
    for code in &codes {
        logins.add(Kept::of(code, NOW), NOW);
    }
    assert_eq!(logins.codes.lock().unwrap().len(), MAX_CODES);
    assert!(logins.find(&codes[3], NOW).await.is_none(), "the oldest are forgotten");
    assert!(logins.find(&codes[4], NOW).await.is_some());
}
