/*
 * DOCUMENT: the light snapshot is taken with LISTEN, at s; a large document is read later, on the pool, at d.
 *
 * What is modelled. One topology that is made, changed, deleted, made anew with the same id and pruned; one client that
 * asks for it; the feed of its topology, which holds the newest event only. The stream is the document at d, then d+1,
 * d+2, ... The feed gets each event after s once and in order: attach.pml and wal.pml prove that. With STANDBYS the
 * light snapshot, the feed and the journal are read from one standby and the document from another, each as far behind
 * as it likes.
 *
 * What is asked, in every run: the client's events follow its document without a gap; it is told `deleted` only of the
 * life that its document shows; it gets a 404 only if there was a moment, since it asked, at which the topology was not
 * there; it gets `unavailable` only after two tries; and it ends with the state that the database ends with.
 *
 * Assumptions. A snapshot shows one moment, and a standby's shows a prefix of the primary's commits (storage/ipc/
 * procarray.c, GetSnapshotData and ExpireTreeKnownAssignedTransactionIds: commits are replayed in the order of the
 * WAL). Head and journal outlive a deleted topology, and one that is made anew with the same id goes on with the head's
 * numbers (sql: topology_heads has no foreign key). Pruning removes a prefix and raises `first` in the same
 * transaction.
 *
 * Switches (spin -D); 1 is what we do, 0 the mutant, unless said otherwise:
 *   STANDBYS   0  everything is read from the primary; 1  from two standbys
 *   OLDER      1  a document with d < s is read again
 *   GONE       1  a topology that is not there at d is a 404; 0  the document is read again until it is there
 *   ANEW       1  a client whose document is of a later life than its feed gets a new feed; 0  it ends with the feed
 *   PRUNED     1  a document past which the journal was pruned is read again, twice at most; 0  the stream goes on with
 *                 the oldest event that is there
 *   COMING     1  before a standby's word for a 404 the primary is asked
 *   REACH      1  asserts that nobody is ever told `unavailable`, which must fail: such runs are in the model
 *   SHARED     1  a 404 counts only for those who asked before the snapshot that it comes from; 0  for all who wait
 */
#ifndef STANDBYS
#define STANDBYS 0
#endif
#ifndef OLDER
#define OLDER 1
#endif
#ifndef GONE
#define GONE 1
#endif
#ifndef ANEW
#define ANEW 1
#endif
#ifndef PRUNED
#define PRUNED 1
#endif
#ifndef COMING
#define COMING 1
#endif
#ifndef SHARED
#define SHARED 1
#endif
#ifndef REACH
#define REACH 0
#endif
#ifndef STEPS
#define STEPS 5
#endif

/* The database as it was after each commit 0..top; the newest is what the primary shows. */
byte top;
bool there[STEPS+1];     /* the topology's row */
byte life[STEPS+1];      /* how often it was made */
byte seq[STEPS+1];       /* head */
byte first[STEPS+1];     /* oldest number that the journal holds, or head+1 */
bool is_end[STEPS+1];    /* by number: it is the event `deleted` */
byte replayed[2];        /* STANDBYS: how far each is, at least; a read may find it further */

/* The feed. */
bool feeding;
byte feed_last;
bool feed_ended;         /* its last event is `deleted` */

/* The client. */
byte asked;              /* top when it asked */
byte has;                /* the number of the state that it has */
byte shows;              /* and the life that this state is of */
mtype = { waits, live, told_deleted, told_404, told_unavailable };
mtype client = waits;

bool gap, wrong_deleted, wrong_404, ends_wrong, unavailable;

proctype Writers() {
  do
  :: atomic { top < STEPS ->
       there[top+1] = there[top]; life[top+1] = life[top]; seq[top+1] = seq[top]; first[top+1] = first[top];
       if
       :: there[top] -> seq[top+1]++
       :: there[top] -> seq[top+1]++; there[top+1] = 0; is_end[seq[top+1]] = 1
       :: !there[top] && life[top] < 2 -> seq[top+1]++; there[top+1] = 1; life[top+1]++
       :: first[top] <= seq[top] -> first[top+1] = seq[top]+1
       fi;
       top++ }
  :: break
  od
}

/* Where a read of that server finds the database. */
inline read(server) {
  atomic {
    if
    :: STANDBYS ->
       do
       :: replayed[server] < top -> replayed[server]++
       :: break
       od
    :: else -> replayed[server] = top
    fi;
    p = replayed[server]
  }
}

/* The same, by a read that finds it further than the last one. */
inline read_later(server) {
  atomic { replayed[server] < top -> replayed[server]++ };
  read(server)
}

/* The feed takes what follows its newest event. */
proctype Feed() {
end:
  do
  :: atomic { feeding && !feed_ended && seq[top] > feed_last ->
       do
       :: !STANDBYS -> replayed[0] = top; break
       :: STANDBYS && seq[replayed[0]] <= feed_last -> replayed[0]++
       :: STANDBYS && seq[replayed[0]] > feed_last -> break
       od;
       feed_last++; feed_ended = is_end[feed_last] }
  od
}

/* Tells the client that there is no such topology. */
inline tell_404() {
  atomic {
    client = told_404;
    wrong_404 = 1;
    p = asked;
    do
    :: p <= top -> if :: !there[p] -> wrong_404 = 0 :: else fi; p++
    :: else -> break
    od
  }
}

proctype Client(byte under_way) {
  byte p, s, d, pruned;
  asked = top;
  if                                                /* it may join an attach that is under way */
  :: p = under_way
  :: read(0)
  fi;
light:
  if
  :: atomic { there[p] -> s = seq[p]; feed_last = s; feed_ended = 0; feeding = 1 }
  :: atomic { !there[p] && SHARED && p < asked && !STANDBYS -> read(0); goto light }
  :: atomic { !there[p] && STANDBYS && COMING && there[top] -> read_later(0); goto light }
  :: else -> tell_404(); goto out
  fi;
  if
  :: client == live -> goto follow                  /* it keeps its place, and has a new feed */
  :: else
  fi;
document:
  read(1);
judge:
  if
  :: OLDER && seq[p] < s -> read_later(1); goto judge
  :: !(OLDER && seq[p] < s) && !there[p] && !GONE -> read_later(1); goto judge
  :: !(OLDER && seq[p] < s) && !there[p] && GONE ->
     if
     :: STANDBYS && COMING && there[top] -> read_later(1); goto judge
     :: else -> tell_404(); goto out
     fi
  :: !(OLDER && seq[p] < s) && there[p] -> atomic { d = seq[p]; shows = life[p] }
  fi;
  atomic {                                          /* delivery */
    if
    :: !OLDER && d < s -> has = d; d = s            /* the mutant: the stream goes on with the feed */
    :: else ->
       if
       :: ANEW && feed_ended && feed_last <= d -> feeding = 0; read(0); goto light
       :: else ->
          read(0);
          if
          :: PRUNED && d+1 < feed_last && first[p] > d+1 ->
             pruned++;
             if
             :: pruned < 2 -> goto document
             :: else -> client = told_unavailable; goto out
             fi
          :: else -> has = d
          fi
       fi
    fi;
    client = live
  };
follow:
  do
  :: atomic { d < feed_last ->
       read(0);
       if
       :: d+1 == feed_last || first[p] <= d+1 -> d = d+1            /* from the ring, or from the journal */
       :: d+1 < feed_last && first[p] > d+1 && PRUNED -> client = waits; pruned = 0; s = d; goto document
       :: d+1 < feed_last && first[p] > d+1 && !PRUNED -> d = feed_last
       fi;
       if :: d != has+1 -> gap = 1 :: else fi;
       has = d;
       if :: is_end[d] -> client = told_deleted; goto out :: else fi }
  :: atomic { feed_ended && feed_last <= d ->       /* the end of a life before the one that the client has */
       if
       :: ANEW -> feeding = 0; read(0);
          if
          :: seq[p] >= d -> goto light
          :: else -> goto behind
          fi
       :: else -> client = told_deleted; wrong_deleted = (feed_last != d); goto out
       fi }
  :: timeout -> break
  od;
  goto out;
behind:                                             /* a standby that does not have the client's life yet */
  read_later(0);
  if
  :: seq[p] >= d -> goto light
  :: else -> goto behind
  fi;
out:
  atomic {
    assert(!gap);
    assert(!wrong_404);
    assert(!wrong_deleted);
    assert(client != told_unavailable || pruned == 2);
    unavailable = (REACH && client == told_unavailable);
    assert(!unavailable);
    ends_wrong = (client == live && (has != seq[top] || shows != life[top] || !there[top]));
    assert(!ends_wrong)
  }
}

init {
  atomic {
    first[0] = 1;
    run Writers();
    run Feed();
    run Client(0)
  }
}
