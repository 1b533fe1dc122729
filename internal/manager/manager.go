// Package manager runs the life of sandboxes: create, start, stop, remove, exec, and the repair of what a crash left
// (reconcile).
//
// Every sandbox has one lock for the steps of its life, so that two requests about one sandbox take turns; a start is the
// one step that another request (stop, forced remove) may cut short. Each step first writes to the record what it is about
// to do, then does it: a crash between any two steps leaves a record that says what to look for.
package manager

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/internal/events"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
	"github.com/agentkernel/agentkernel/internal/store"
	"github.com/agentkernel/agentkernel/internal/transport/bulk"
)

// Deps is what a Manager works with. The functions reach into packages that it does not import.
type Deps struct {
	Log       *slog.Logger
	Store     *store.Store
	Volumes   *store.Volumes
	Snapshots *snapshot.Store
	Templates *snapshot.Shared // nil: every start boots
	// TemplateBytes and TemplateAge bound what is kept of templates: their size together, and the time since one was used.
	TemplateBytes int64
	TemplateAge   time.Duration
	Engine        sandbox.Engine
	RuntimeDir    string // one directory a running microVM is made below it
	Host          sandbox.Host
	HostArch      sandbox.Arch

	// ChooseEngine is which engine a sandbox would be started with that asks for name (or for none), in words that tell it from any
	// other, or another version of it.
	ChooseEngine func(ctx context.Context, name string, arch sandbox.Arch) (string, error)
	Pool         Pool
	// AvailableMiB is how much memory the host has left; WatchMemory calls short whenever it is short of it. Where the host does not
	// tell, they return an error.
	AvailableMiB func() (int, error)
	WatchMemory  func(ctx context.Context, short func()) error

	// HoldImages keeps images from being removed until unlock is called.
	HoldImages func(ctx context.Context) (unlock func(), err error)
	// ResolveImage finds an image by name or path; OpenImage finds one by digest.
	ResolveImage func(ctx context.Context, ref string, arch sandbox.Arch) (sandbox.Image, error)
	OpenImage    func(ctx context.Context, digest string) (sandbox.Image, error)
	// Kernel is the newest kernel for an architecture.
	Kernel func(arch sandbox.Arch) (sandbox.KernelImage, error)
	// Initrd is the path of the initramfs with the guest agent.
	Initrd func(ctx context.Context, arch sandbox.Arch) (string, error)
	// CreateUpper makes an empty ext4 disk for a sandbox, in a file that goes on for bulk.Size bytes behind its sizeMiB MiB.
	CreateUpper func(ctx context.Context, path string, sizeMiB int) error
	// CreateVolume makes an empty ext4 disk for a volume.
	CreateVolume func(ctx context.Context, path string, sizeMiB int) error
	// PackProject copies a directory into a read-only ext4 image; the warnings are for the user.
	PackProject func(ctx context.Context, dir, path string) (warnings []string, err error)
	// DiskUsed is how many bytes of the host's disk a file takes.
	DiskUsed func(path string) (int64, error)
	// NeedsRecovery reports whether an ext4 file system was written to and not unmounted.
	NeedsRecovery func(path string) (bool, error)
	// CopyDisk makes one disk a copy of another: disk.Copy.
	CopyDisk func(ctx context.Context, dst, src string) error
	// ReadCount reads the counter file of a microVM whose instructions are counted.
	ReadCount func(path string) (uint64, error)
}

// Manager owns all sandboxes of one state directory.
type Manager struct {
	d         Deps
	log       *slog.Logger
	events    *events.Hub
	meters    *meters
	templates *templates
	pool      *pool
	since     time.Time

	mu       sync.Mutex // guards what follows, and is never held while waiting
	byName   map[string]*box
	reserved map[string]bool   // names being created
	claimed  map[string]string // by the same names, once it is known: the digest of the image
	cids     map[uint32]bool
	problems []string
	unread   []string // ids of sandboxes whose records could not be read
	closed   bool

	volumes        map[string]sandbox.Volume                 // by name
	busyVolumes    map[string]bool                           // names being created or removed
	named          map[string]map[string]sandbox.VolumeMount // by volume, by the sandbox that names it
	volumeProblems []string

	snapshotProblems []string

	claiming sync.Mutex // held by a start while it looks whether its volumes are free, and until its record says that it has them

	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	background sync.WaitGroup // watchers and adoptions
}

// box is a sandbox in memory.
type box struct {
	id string
	op chan struct{} // holds one token: the right to change the sandbox's state

	mu          sync.Mutex // guards what follows, and is never held while waiting
	rec         sandbox.Record
	machine     sandbox.Machine
	watched     chan struct{} // closed when the end of machine has been recorded
	guest       *guest
	cancelStart context.CancelCauseFunc // set while a start is under way
	removed     bool
	started     time.Time // monotonic; when the guest agent became ready
	firstExec   bool      // whether the first exec since the start has been timed
	idle        idleness
	published   *publication
	saves       int        // how often the microVM was saved, which may end all connections to its guest
	connections int        // to servers in the guest
	bulk        *bulk.Area // nil until it is used

	carried traffic // by those connections

	pooled    *pooled // waits for the start, for as long as unclaimed runs
	unclaimed *time.Timer
}

// New returns a manager that knows no sandbox yet: call Reconcile before anything else.
func New(d Deps) *Manager {
	ctx, cancel := context.WithCancel(context.Background())
	return &Manager{
		d: d, log: d.Log, events: events.NewHub(events.Kept), meters: newMeters(), templates: newTemplates(), pool: newPool(d.Pool), since: time.Now(), ctx: ctx, cancel: cancel,
		byName: map[string]*box{}, reserved: map[string]bool{}, claimed: map[string]string{}, cids: map[uint32]bool{},
		volumes: map[string]sandbox.Volume{}, busyVolumes: map[string]bool{}, named: map[string]map[string]sandbox.VolumeMount{},
	}
}

func newBox(rec sandbox.Record) *box {
	b := &box{id: rec.ID, op: make(chan struct{}, 1), rec: rec}
	b.op <- struct{}{}
	return b
}

func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}

// List returns all sandboxes by name, and a line for each record that could not be read.
func (m *Manager) List() (records []sandbox.Record, problems []string) {
	m.mu.Lock()
	boxes := slices.Collect(maps.Values(m.byName))
	problems = slices.Clone(m.problems)
	m.mu.Unlock()
	for _, b := range boxes {
		records = append(records, b.record())
	}
	slices.SortFunc(records, func(a, b sandbox.Record) int { return cmp.Compare(a.Spec.Name, b.Spec.Name) })
	return records, problems
}

// Get returns one sandbox.
func (m *Manager) Get(name string) (sandbox.Record, error) {
	b, err := m.find(name)
	if err != nil {
		return sandbox.Record{}, err
	}
	return b.record(), nil
}

// ConsoleLog is the path of the file with a sandbox's console output. It may not exist.
func (m *Manager) ConsoleLog(name string) (string, error) {
	b, err := m.find(name)
	if err != nil {
		return "", err
	}
	return filepath.Join(m.d.Store.Dir(b.record().ID), "console.log"), nil
}

// Close lets go of all microVMs without ending them, and waits for what runs in the background.
func (m *Manager) Close() {
	m.cancel()
	m.mu.Lock()
	m.closed = true
	boxes := slices.Collect(maps.Values(m.byName))
	m.mu.Unlock()
	m.emptyPool(0)
	for _, b := range boxes {
		m.endPooled(b)
		b.mu.Lock()
		machine, g := b.machine, b.guest
		b.machine, b.guest = nil, nil
		b.stopIdleTimer()
		b.mu.Unlock()
		b.unpublish()
		g.close()
		if machine == nil {
			continue
		}
		if err := machine.Release(); err != nil {
			m.log.Warn("let go of the VMM", "sandbox", b.record().Spec.Name, "err", err)
		}
	}
	m.background.Wait()
}

// acquire waits for the right to change b's state. The caller gives it back with release.
func (b *box) acquire(ctx context.Context) error {
	select {
	case <-b.op:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	b.mu.Lock()
	removed, name := b.removed, b.rec.Spec.Name
	b.mu.Unlock()
	if removed {
		b.release()
		return notFound(name)
	}
	return nil
}

func (b *box) release() { b.op <- struct{}{} }

func (b *box) record() sandbox.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	rec := b.rec
	rec.Stages = slices.Clone(rec.Stages)
	rec.Warnings = slices.Clone(rec.Warnings)
	rec.Bindings = slices.Clone(rec.Bindings)
	return rec
}

// move changes the record to another state, with change applied to it, on disk first. The caller holds op.
func (m *Manager) move(b *box, to sandbox.State, change func(*sandbox.Record)) error {
	rec := b.record()
	from := rec.State
	if err := sandbox.Next(rec.Spec.Name, from, to); err != nil {
		return err
	}
	rec.State = to
	if change != nil {
		change(&rec)
	}
	if err := m.save(b, rec); err != nil {
		return err
	}
	m.moved(rec, from)
	return nil
}

func (m *Manager) save(b *box, rec sandbox.Record) error {
	if err := m.d.Store.Save(rec); err != nil {
		return err
	}
	b.mu.Lock()
	b.rec = rec
	b.mu.Unlock()
	return nil
}

// settle is move for an end that has already come: what is in memory says so even when the disk is full and the record
// cannot; the next Reconcile finds out by itself.
func (m *Manager) settle(b *box, to sandbox.State, reason string) {
	change := func(rec *sandbox.Record) {
		rec.State, rec.Reason, rec.Machine, rec.Bindings, rec.FinishedAt = to, reason, nil, nil, time.Now().UTC()
		rec.Saving = false
		if to != sandbox.Suspended && rec.Restore != nil && rec.Restore.Kind == sandbox.RestoreSuspended {
			rec.Restore = nil
		}
	}
	b.mu.Lock()
	from := b.rec.State
	gaveUp := b.rec.Restore != nil && b.rec.Restore.Kind == sandbox.RestoreSuspended && to != sandbox.Suspended
	change(&b.rec)
	rec := b.rec
	b.machine, b.guest = nil, nil
	b.stopIdleTimer()
	b.mu.Unlock()
	b.unpublish()
	if err := m.d.Store.Save(rec); err != nil {
		m.log.Error("record the end of a microVM", "sandbox", rec.Spec.Name, "state", to, "err", err)
	}
	if gaveUp {
		if err := m.discardSaved(rec); err != nil {
			m.log.Warn("delete memory that cannot be used any more", "sandbox", rec.Spec.Name, "err", err)
		}
	}
	m.moved(rec, from)
}
