package manager

import (
	"cmp"
	"slices"
	"time"

	"github.com/agentkernel/agentkernel/internal/sandbox"
	"github.com/agentkernel/agentkernel/internal/snapshot"
)

// Template is one that is kept.
type Template struct {
	snapshot.Manifest
	UsedAt         time.Time
	AllocatedBytes int64 // of the host's disk
}

// Templates lists those that this daemon knows, the last used first.
func (m *Manager) Templates() []Template {
	if m.d.Templates == nil {
		return nil
	}
	var list []Template
	for _, mf := range m.d.Templates.List() {
		used, err := m.d.Templates.LastUse(mf)
		if err != nil {
			continue // another daemon has removed it
		}
		size, err := m.d.Templates.AllocatedBytes(mf)
		if err != nil {
			continue
		}
		list = append(list, Template{mf, used, size})
	}
	slices.SortFunc(list, func(a, b Template) int { return cmp.Or(b.UsedAt.Compare(a.UsedAt), cmp.Compare(a.ID, b.ID)) })
	return list
}

// RemoveTemplate deletes a template.
func (m *Manager) RemoveTemplate(id string) error {
	if m.d.Templates == nil || !sandbox.ValidID(id) || !slices.ContainsFunc(m.Templates(), func(t Template) bool { return t.ID == id }) {
		return sandbox.Errorf(sandbox.NotFound, "agentkernel template ls shows all", "there is no template %.40q", id)
	}
	return m.d.Templates.Remove(id)
}

// pruneTemplates removes templates that were not used for long, and then those that were not used for longest until what is left
// is within its bounds; never the one of id keep.
func (m *Manager) pruneTemplates(keep string) {
	var total int64
	for _, t := range m.Templates() {
		total += t.AllocatedBytes
		unused := time.Since(t.UsedAt)
		if t.ID == keep || total <= m.d.TemplateBytes && unused <= m.d.TemplateAge {
			continue
		}
		if err := m.d.Templates.Remove(t.ID); err != nil {
			m.log.Info("prune a template", "template", t.ID, "err", err) // it is being restored, and is pruned the next time
			continue
		}
		total -= t.AllocatedBytes
		m.log.Info("pruned a template", "template", t.ID, "unused_for", unused.Round(time.Second))
	}
}
