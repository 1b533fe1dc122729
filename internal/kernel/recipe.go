package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// keyFormat changes when a change of this package's code makes a different
// kernel from the same inputs; old kernels then no longer match.
const keyFormat = "agentkernel-kernel-1"

// namedText is one file that goes into a kernel.
type namedText struct {
	Name string
	Text []byte
}

// recipe is everything of ours that decides a kernel, for one architecture
// and series.
type recipe struct {
	Arch      Arch
	Series    string
	Fragments []namedText
	Patches   []namedText // in the order in which they apply
	Symbols   []symbol
}

// loadRecipe reads fragments and patches from a tree laid out as
// images/kernel is. The fragments of a series are optional, the others not.
func loadRecipe(tree fs.FS, arch Arch, series string) (recipe, error) {
	r := recipe{Arch: arch, Series: series}
	var parts [][]symbol
	for _, f := range []struct {
		name     string
		optional bool
	}{
		{"common.config", false},
		{"common-" + series + ".config", true},
		{string(arch) + ".config", false},
		{string(arch) + "-" + series + ".config", true},
	} {
		text, err := fs.ReadFile(tree, f.name)
		if f.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return recipe{}, fmt.Errorf("read kernel fragment: %w", err)
		}
		symbols, err := parseFragment(f.name, text)
		if err != nil {
			return recipe{}, err
		}
		r.Fragments = append(r.Fragments, namedText{f.name, text})
		parts = append(parts, symbols)
	}
	var err error
	if r.Symbols, err = joinFragments(parts...); err != nil {
		return recipe{}, err
	}
	names, err := fs.Glob(tree, path.Join("patches", series, "*.patch")) // sorted
	if err != nil {
		return recipe{}, fmt.Errorf("list kernel patches: %w", err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return recipe{}, fmt.Errorf("read kernel patch: %w", err)
		}
		r.Patches = append(r.Patches, namedText{name, text})
	}
	return r, nil
}

// key is the content address of the kernel that this recipe makes from a
// source with one compiler: 64 hex digits.
func (r recipe) key(version, sourceSHA256, compiler string) string {
	h := sha256.New()
	// Every field goes in behind its length, so that no two lists of fields
	// can run together into the same bytes.
	put := func(field []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(field))))
		h.Write(field)
	}
	for _, s := range []string{keyFormat, string(r.Arch), version, sourceSHA256, compiler} {
		put([]byte(s))
	}
	for _, list := range [][]namedText{r.Fragments, r.Patches} {
		put(binary.BigEndian.AppendUint64(nil, uint64(len(list))))
		for _, f := range list {
			put([]byte(f.Name))
			put(f.Text)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
