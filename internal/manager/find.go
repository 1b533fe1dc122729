package manager

import (
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// minID is how much of an id has to be given, in characters: a name that is mistyped or gone shall not be taken for one.
const minID = 4

// find returns the sandbox that a user means: by its name, by its id, or by a beginning of its id that no other has.
func (m *Manager) find(ref string) (*box, error) {
	if err := sandbox.ValidateName(ref); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, n := lookUp(m.byName, ref, func(b *box) string { return b.id })
	switch n {
	case 0:
		return nil, notFound(ref)
	case 1:
		return b, nil
	}
	return nil, sandbox.Errorf(sandbox.Invalid, "agentkernel list shows all", "%d sandboxes have an id that begins with %q", n, ref)
}

func notFound(ref string) error {
	return sandbox.Errorf(sandbox.NotFound, "agentkernel list shows all; agentkernel create "+ref+" makes it", "there is no sandbox %q", ref)
}

// findVolume is find for volumes.
func (m *Manager) findVolume(ref string) (sandbox.Volume, error) {
	if err := sandbox.ValidateVolumeName(ref); err != nil {
		return sandbox.Volume{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v, n := lookUp(m.volumes, ref, func(v sandbox.Volume) string { return v.ID })
	switch n {
	case 0:
		return v, noVolume(ref)
	case 1:
		return v, nil
	}
	return v, sandbox.Errorf(sandbox.Invalid, "agentkernel volume ls shows all", "%d volumes have an id that begins with %q", n, ref)
}

func noVolume(ref string) error {
	return sandbox.Errorf(sandbox.NotFound, "agentkernel volume ls shows all; agentkernel volume create "+ref+" makes it", "there is no volume %q", ref)
}

// lookUp finds what ref stands for in a map by name, and tells how many it may stand for.
func lookUp[T any](byName map[string]T, ref string, id func(T) string) (found T, n int) {
	if v, ok := byName[ref]; ok {
		return v, 1
	}
	if len(ref) < minID {
		return found, 0
	}
	for _, v := range byName {
		if strings.HasPrefix(id(v), ref) {
			found = v
			n++
		}
	}
	return found, n
}
