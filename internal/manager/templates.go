package manager

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/agentkernel/agentkernel/internal/guestrpc"
	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

const (
	// templateTimeout bounds the taking of one: a boot, and its memory written to the disk.
	templateTimeout = 3 * time.Minute
	// After a template could not be taken or restored, sandboxes that would use it boot, for a time that doubles with each failure.
	firstTemplatePause, longestTemplatePause = 10 * time.Second, 30 * time.Minute
)

// templates are saved microVMs that starts go on from. The store has those that are whole.
type templates struct {
	mu     sync.Mutex
	making map[string]*making // by id
	failed map[string]failedTemplate
}

// making is a template that is being taken, by one start for all that want it.
type making struct {
	done chan struct{} // closed when err is valid
	err  error
}

type failedTemplate struct {
	times int
	until time.Time
	err   error
}

func newTemplates() *templates {
	return &templates{making: map[string]*making{}, failed: map[string]failedTemplate{}}
}

// fromTemplate is the template for a sandbox that is to be started, which is taken if need be. It is nil when the sandbox is to boot.
// A first start may get another upper disk. A later one does not wait for a template that is missing: it has waited for one already.
// That one is taken when later, which may be nil, is called.
func (m *Manager) fromTemplate(ctx context.Context, rec sandbox.Record, first bool) (from *origin, later func(), err error) {
	r, ok := m.d.Engine.(sandbox.Restorer)
	if !ok || m.d.Templates == nil {
		return nil, nil, nil
	}
	spec, err := m.launchSpec(ctx, rec, StartOptions{}, nil)
	if err != nil {
		return nil, nil, err
	}
	upperMiB := 0
	if first {
		upperMiB = rec.Spec.DiskMiB
	}
	id, err := m.templateID(ctx, spec, rec.Image, upperMiB)
	if err != nil {
		m.log.Info("a start without a template", "sandbox", rec.Spec.Name, "err", err)
		return nil, nil, nil
	}
	if err := m.templates.paused(id); err != nil {
		m.log.Debug("a start without a template", "sandbox", rec.Spec.Name, "template", id, "err", err)
		return nil, nil, nil
	}
	from, err = m.useTemplate(ctx, r, id)
	if from == nil && err == nil {
		if !first {
			return nil, func() { m.makeTemplate(r, id, spec, rec, upperMiB) }, nil
		}
		if err = m.awaitTemplate(ctx, m.makeTemplate(r, id, spec, rec, upperMiB)); err == nil {
			if from, err = m.useTemplate(ctx, r, id); from == nil && err == nil {
				err = errors.New("it is gone already, or cannot be restored")
			}
			if err != nil && ctx.Err() == nil {
				m.templates.record(id, err)
			}
		}
	}
	if ctx.Err() != nil {
		from.close()
		return nil, nil, context.Cause(ctx)
	}
	if err != nil {
		m.log.Warn("a start without a template", "sandbox", rec.Spec.Name, "template", id, "err", err)
	}
	return from, nil, nil
}

// templateID is a digest of all that a template depends on. upperMiB is the size of its upper disk, or 0 when it has none.
func (m *Manager) templateID(ctx context.Context, spec sandbox.MachineSpec, image sandbox.Image, upperMiB int) (string, error) {
	engine, err := m.d.ChooseEngine(ctx, spec.Engine, spec.Arch)
	if err != nil {
		return "", err
	}
	kernel, err := fingerprint(spec.Kernel.Path)
	if err != nil {
		return "", err
	}
	initrd, err := fingerprint(spec.Initrd)
	if err != nil {
		return "", err
	}
	data, err := json.Marshal(struct {
		Engine         string
		Arch           sandbox.Arch
		Kernel, Initrd string
		Image, FS      string
		VCPUs, Memory  int
		Spares         []sandbox.Spare
		UpperMiB       int
	}{engine, spec.Arch, kernel, initrd, image.Digest, image.FS, spec.VCPUs, spec.MemoryMiB, spares(spec.Disks, sandbox.RootLower), upperMiB})
	if err != nil {
		return "", fmt.Errorf("name a template: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8]), nil
}

// fingerprint tells a file from others: kernels and initramfs are written once, each to a name of its own.
func fingerprint(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("look at what a template is made of: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("look at what a template is made of: %w", err)
	}
	return fmt.Sprintf("%s %d %d", path, info.Size(), info.ModTime().UnixNano()), nil
}

// spares are what the disks of a sandbox are in its template, but for those of these roles, which it has.
func spares(disks []sandbox.Disk, but ...sandbox.DiskRole) (list []sandbox.Spare) {
	for _, d := range disks {
		if !slices.Contains(but, d.Role) {
			list = append(list, sandbox.Spare{ReadOnly: d.ReadOnly})
		}
	}
	return list
}

// placeTemplate has spec be that of a template in dir, whose manifest is to be mf, instead of a sandbox's: with the image and, unless
// its size is 0, an upper disk, of which sandboxes will get copies.
func (m *Manager) placeTemplate(ctx context.Context, spec *sandbox.MachineSpec, dir string, mf *snapshot.Manifest, upperMiB int) error {
	all := spec.Disks
	spec.Template, spec.Disks = true, slices.DeleteFunc(slices.Clone(all), func(d sandbox.Disk) bool { return d.Role != sandbox.RootLower })
	if upperMiB == 0 {
		spec.Spares = spares(all, sandbox.RootLower)
		return nil
	}
	path := filepath.Join(dir, upperFile)
	if err := m.d.CreateUpper(ctx, path, upperMiB); err != nil {
		return fmt.Errorf("make its upper disk: %w", err)
	}
	spec.Disks = append(spec.Disks, sandbox.Disk{Role: sandbox.Upper, Path: path, FS: "ext4"})
	spec.Spares = spares(all, sandbox.RootLower, sandbox.Upper)
	mf.Disks = []snapshot.Disk{{Role: sandbox.Upper, File: upperFile, SizeBytes: int64(upperMiB) << 20}}
	return nil
}

// useTemplate returns a template that can be restored now, or nil when there is none. One that is damaged, or cannot be restored
// any more, is removed.
func (m *Manager) useTemplate(ctx context.Context, r sandbox.Restorer, id string) (*origin, error) {
	mf, done, err := m.d.Templates.Use(id)
	if sandbox.KindOf(err) == sandbox.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	dir := m.d.Templates.Dir(id)
	if err = m.d.Templates.Check(ctx, dir, mf); err == nil {
		err = r.Restorable(ctx, mf.In(dir))
	}
	if err == nil {
		return &origin{manifest: mf, dir: dir, kind: sandbox.RestoreTemplate, done: done}, nil
	}
	done()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m.log.Warn("a template is not used any more", "template", id, "err", err)
	return nil, m.d.Templates.Remove(id)
}

// makeTemplate begins to take a template, unless that is under way.
func (m *Manager) makeTemplate(r sandbox.Restorer, id string, spec sandbox.MachineSpec, rec sandbox.Record, upperMiB int) *making {
	t := m.templates
	t.mu.Lock()
	defer t.mu.Unlock()
	if it := t.making[id]; it != nil {
		return it
	}
	it := &making{done: make(chan struct{})}
	if !m.inBackground() {
		it.err = errors.New("the daemon ends")
		close(it.done)
		return it
	}
	t.making[id] = it
	go func() { // for all who wait, also when the first of them goes away
		defer m.background.Done()
		it.err = m.takeTemplate(m.ctx, r, id, spec, rec, upperMiB)
		t.mu.Lock()
		delete(t.making, id)
		t.mu.Unlock()
		t.record(id, it.err)
		close(it.done)
		m.pruneTemplates(id)
	}()
	return it
}

func (m *Manager) awaitTemplate(ctx context.Context, it *making) error {
	select {
	case <-it.done:
		return it.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// takeTemplate boots a microVM, of which no sandbox knows, and saves it.
func (m *Manager) takeTemplate(ctx context.Context, r sandbox.Restorer, id string, spec sandbox.MachineSpec, rec sandbox.Record, upperMiB int) (err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, templateTimeout, fmt.Errorf("the template was not there within %v", templateTimeout))
	defer cancel()
	mf := snapshot.Manifest{
		ID: id, Sandbox: "template", CreatedAt: began.UTC(), Image: rec.Image,
		Spec:   sandbox.Spec{Name: "template", Image: rec.Spec.Image, Arch: spec.Arch, VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB, DiskMiB: upperMiB},
		Kernel: snapshot.Artifact{Release: spec.Kernel.Version},
	}
	unlock, err := m.d.Templates.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, done, err := m.d.Templates.Use(id); err == nil { // another daemon has made it meanwhile
		done()
		return nil
	}
	dir, err := m.d.Templates.Begin(mf)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("take a template: %w", err), m.d.Templates.Abandon(mf))
		}
	}()
	if err := m.placeTemplate(ctx, &spec, dir, &mf, upperMiB); err != nil {
		return err
	}
	spec, mf.State, err = m.saveBooted(ctx, spec, filepath.Join(dir, snapshot.StateDir))
	if err != nil {
		return err
	}
	if mf.State, err = r.Finish(ctx, spec, mf.State); err != nil {
		return err
	}
	if mf, err = m.d.Templates.Seal(ctx, dir, mf); err != nil {
		return err
	}
	if err := m.d.Templates.Commit(dir, mf); err != nil {
		return err
	}
	m.log.Info("took a template", "template", id, "image", rec.Spec.Image, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// saveBooted boots the microVM of a template for spec, and saves it in dir, which it makes, when its guest agent waits. It is gone then.
func (m *Manager) saveBooted(ctx context.Context, spec sandbox.MachineSpec, dir string) (_ sandbox.MachineSpec, saved sandbox.SavedState, err error) {
	// The daemon that comes next finds it by its directory, and ends it.
	scratch := m.identity(sandbox.Record{ID: newID(), Spec: sandbox.Spec{VsockCID: sandbox.MinVsockCID}})
	spec.ID, spec.VsockCID, spec.RuntimeDir, spec.LogDir = scratch.ID, scratch.VsockCID, scratch.RuntimeDir, scratch.RuntimeDir
	defer func() { err = errors.Join(err, m.removeRuntimeDir(spec.ID)) }()
	for _, d := range []string{spec.RuntimeDir, dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return spec, saved, fmt.Errorf("make a directory for it: %w", err)
		}
	}
	machine, err := m.d.Engine.Launch(ctx, spec)
	if err != nil {
		return spec, saved, err
	}
	defer func() {
		if err != nil {
			err = explain(ctx, machine, err)
		}
		err = errors.Join(err, machine.Kill(context.WithoutCancel(ctx)))
	}()
	saver, ok := machine.(sandbox.Saver)
	if !ok {
		return spec, saved, errors.New("its engine cannot save microVMs")
	}
	g, err := connect(ctx, machine, sandbox.Record{ID: spec.ID, Spec: sandbox.Spec{Name: "template"}})
	if err != nil {
		return spec, saved, err
	}
	waits := g.info().Awaits == guestrpc.AwaitsDisks
	g.close()
	if !waits {
		return spec, saved, errors.New("its guest agent does not wait for disks")
	}
	if l, ok := machine.(sandbox.Linked); ok {
		if err := l.RenewLink(ctx); err != nil {
			return spec, saved, err
		}
	}
	if err := saver.Pause(ctx); err != nil {
		return spec, saved, err
	}
	saved, err = saver.Save(ctx, dir)
	return spec, saved, err
}

// templateFailed is for a template that could not be restored: sandboxes boot for a while, and then it is taken anew.
func (m *Manager) templateFailed(id string, why error) {
	m.templates.record(id, why)
	if err := m.d.Templates.Remove(id); err != nil {
		m.log.Warn("remove a template that cannot be restored", "template", id, "err", err)
	}
}

// record keeps the outcome of an attempt.
func (t *templates) record(id string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		delete(t.failed, id)
		return
	}
	f := t.failed[id]
	pause := min(firstTemplatePause<<min(f.times, 20), longestTemplatePause)
	t.failed[id] = failedTemplate{f.times + 1, time.Now().Add(pause), err}
}

// paused says why no template is to be tried now.
func (t *templates) paused(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.failed[id]; time.Now().Before(f.until) {
		return fmt.Errorf("the last attempt failed, and the next is due at %s: %w", f.until.Format(time.TimeOnly), f.err)
	}
	return nil
}
