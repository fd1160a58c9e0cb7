//! A gate before a store: it lets everything through, refuses connections, or swallows all that is sent.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    Open,
    /// Connections are refused, and those that there were are gone.
    Closed,
    /// Nothing gets through, and nobody is told.
    Silent,
}

/// Stands before a store.
pub struct Gate {
    pub address: String,
    passage: watch::Sender<Passage>,
}

impl Gate {
    pub async fn before(store: &str) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let passage = watch::Sender::new(Passage::Open);
        tokio::spawn(keep(listener, store.to_owned(), passage.subscribe()));
        Gate { address, passage }
    }

    pub fn set(&self, passage: Passage) {
        self.passage.send_replace(passage);
    }
}

async fn keep(listener: TcpListener, store: String, mut passage: watch::Receiver<Passage>) {
    let (address, mut listener) = (listener.local_addr().unwrap(), Some(listener));
    loop {
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.unwrap().0,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outside = accepted => {
                if let Ok(inside) = TcpStream::connect(&store).await {
                    let ((from_outside, to_outside), (from_inside, to_inside)) = (outside.into_split(), inside.into_split());
                    tokio::spawn(pass(from_outside, to_inside, passage.clone()));
                    tokio::spawn(pass(from_inside, to_outside, passage.clone()));
                }
            }
            changed = passage.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *passage.borrow_and_update();
                listener = match now {
                    Passage::Closed => None,
                    _ if listener.is_some() => listener,
                    _ => Some(TcpListener::bind(address).await.unwrap()),
                };
            }
        }
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passage: watch::Receiver<Passage>) {
    let mut closed = passage.clone();
    let through = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            drop(passage.wait_for(|passage| *passage == Passage::Open).await);
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = through => {}
        () = async { drop(closed.wait_for(|passage| *passage == Passage::Closed).await) } => {}
    }
}
