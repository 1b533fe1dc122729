package manager

import (
	"cmp"
	"context"
	"slices"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// ImageUse is somebody who needs an image, which therefore must not be removed.
type ImageUse struct {
	Digest  string
	Sandbox string
	// Snapshot is what the snapshot of the sandbox is called that has the image; empty when it is the sandbox itself.
	Snapshot string
	State    sandbox.State // empty while the sandbox is being made
}

// claimImage finds the image of a sandbox that is being made. From then on ImageUses tells of it.
func (m *Manager) claimImage(ctx context.Context, spec sandbox.Spec) (sandbox.Image, error) {
	unlock, err := m.d.HoldImages(ctx)
	if err != nil {
		return sandbox.Image{}, err
	}
	defer unlock()
	image, err := m.d.ResolveImage(ctx, spec.Image, spec.Arch)
	if err != nil {
		return sandbox.Image{}, err
	}
	m.mu.Lock()
	m.claimed[spec.Name] = image.Digest
	m.mu.Unlock()
	return image, nil
}

// ImageUses tells what images are in use, by digest and then by name: those of all sandboxes in whatever state, of those that are
// being made, and of snapshots. With problems, lines about records that could not be read, it is not all.
func (m *Manager) ImageUses() (uses []ImageUse, problems []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, digest := range m.claimed {
		uses = append(uses, ImageUse{Digest: digest, Sandbox: name})
	}
	for name, b := range m.byName {
		rec := b.record()
		uses = append(uses, ImageUse{Digest: rec.Image.Digest, Sandbox: name, State: rec.State})
	}
	for _, mf := range m.d.Snapshots.List() {
		uses = append(uses, ImageUse{Digest: mf.Image.Digest, Sandbox: mf.Sandbox, Snapshot: mf.Ref()})
	}
	slices.SortFunc(uses, func(a, b ImageUse) int {
		return cmp.Or(cmp.Compare(a.Digest, b.Digest), cmp.Compare(a.Sandbox, b.Sandbox), cmp.Compare(a.Snapshot, b.Snapshot))
	})
	return uses, append(slices.Clone(m.problems), m.snapshotProblems...)
}
