package layer

import (
	"io"
	"sync/atomic"

	"github.com/docker/go-units"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Limits of one image, over all of its layers.
type Limits struct {
	Bytes   int64 // of the layers, decompressed
	Entries int64 // files, directories, links and whiteouts
	Names   int64 // bytes of names, link targets and extended attributes, which are kept in memory
}

// DefaultLimits are far above what images have: the largest with machine-learning frameworks are some 20 GiB.
var DefaultLimits = Limits{Bytes: 32 << 30, Entries: 2 << 20, Names: 512 << 20}

// Budget counts what the layers of one image use up of its limits. It may be used from several goroutines.
type Budget struct {
	limits            Limits
	archive, contents atomic.Int64 // bytes; a sparse file has more of the second than of the first
	entries, names    atomic.Int64
}

// NewBudget returns an unspent budget. A limit of 0 is the default one.
func NewBudget(l Limits) *Budget {
	d := DefaultLimits
	if l.Bytes > 0 {
		d.Bytes = l.Bytes
	}
	if l.Entries > 0 {
		d.Entries = l.Entries
	}
	if l.Names > 0 {
		d.Names = l.Names
	}
	return &Budget{limits: d}
}

func (b *Budget) spendBytes(from *atomic.Int64, n int64) error {
	if from.Add(n) > b.limits.Bytes {
		return sandbox.Errorf(sandbox.Invalid, "if the image is to be trusted, allow more with --max-size", "the image is larger than %s when it is unpacked", units.BytesSize(float64(b.limits.Bytes)))
	}
	return nil
}

func (b *Budget) spendEntry(names int64) error {
	if b.entries.Add(1) > b.limits.Entries {
		return sandbox.Errorf(sandbox.Invalid, "use an image with fewer files", "the image has more than %d files", b.limits.Entries)
	}
	if b.names.Add(names) > b.limits.Names {
		return sandbox.Errorf(sandbox.Invalid, "use an image with fewer files", "the names and attributes of the image's files have more than %s", units.BytesSize(float64(b.limits.Names)))
	}
	return nil
}

// meter counts the bytes that are read through it against one of a budget's counts.
type meter struct {
	r    io.Reader
	b    *Budget
	from *atomic.Int64
}

func (m meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if over := m.b.spendBytes(m.from, int64(n)); over != nil {
		return 0, over
	}
	return n, err
}
