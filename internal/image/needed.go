package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"slices"
)

// Entries of a dynamic section are pairs of a tag and a value: ELF-64 Object File Format, version 1.5, table 15.
const dynamicEntry = 16

// unneed takes a library out of those that the loader loads for a program or library of 64 bits, and returns whether it was one of
// them. The file keeps its size. A function of that library is looked for when it is called, and its program ends with the loader's
// "undefined symbol" then; a file whose functions are all looked for when it is loaded is refused. That a file uses no data of the
// library is not checked: it would not load.
func unneed(file []byte, library string) (bool, error) {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return false, fmt.Errorf("it is not an ELF file: %w", err)
	}
	defer f.Close()
	if f.Class != elf.ELFCLASS64 {
		return false, fmt.Errorf("it is of %s, not of 64 bits", f.Class)
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return false, fmt.Errorf("read which libraries it needs: %w", err)
	}
	index := slices.Index(needed, library)
	if index < 0 {
		return false, nil
	}
	for tag, now := range map[elf.DynTag]uint64{elf.DT_FLAGS: uint64(elf.DF_BIND_NOW), elf.DT_FLAGS_1: uint64(elf.DF_1_NOW)} {
		values, err := f.DynValue(tag)
		if err != nil {
			return false, fmt.Errorf("read how it is bound: %w", err)
		}
		if slices.ContainsFunc(values, func(v uint64) bool { return v&now != 0 }) {
			return false, errors.New("all that it calls is bound when it is loaded")
		}
	}
	dynamic := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_DYNAMIC })
	if dynamic < 0 {
		return false, errors.New("it has no dynamic section")
	}
	p := f.Progs[dynamic]
	if p.Off > uint64(len(file)) || p.Filesz > uint64(len(file))-p.Off {
		return false, errors.New("its dynamic section is not in the file")
	}
	entries := file[p.Off:][:p.Filesz/dynamicEntry*dynamicEntry]
	for at := 0; at < len(entries); at += dynamicEntry {
		if elf.DynTag(f.ByteOrder.Uint64(entries[at:])) != elf.DT_NEEDED {
			continue
		}
		if index == 0 {
			copy(entries[at:], entries[at+dynamicEntry:])
			clear(entries[len(entries)-dynamicEntry:]) // DT_NULL, which ends them
			return true, nil
		}
		index--
	}
	return false, errors.New("its section and its segment of the loader's differ")
}
