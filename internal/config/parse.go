package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxSize of a file, in bytes.
const maxSize = 64 << 10

// Parse reads an agentkernel.toml. filename stands in the errors and is not opened. The error is a *sandbox.Error of kind
// Invalid around Problems.
//
// A path in rootfs is judged by its letters alone here; Load follows it.
func Parse(data []byte, filename string) (File, error) {
	f, _, problems := parse(data, filename, projectSchema(), File{})
	if err := problems.err(); err != nil {
		return File{}, err
	}
	return f, nil
}

// parse reads a file of any kind: what it says takes the place of what file has.
func parse[T any](data []byte, filename string, s schema[T], file T) (_ T, _ places, _ Problems) {
	if len(data) > maxSize {
		return file, nil, Problems{{File: filename, Message: fmt.Sprintf("it has more than %d bytes", maxSize)}}
	}
	// The library decodes, and so finds what TOML does not allow; where things stand is then taken from its syntax tree.
	var doc map[string]any
	if err := toml.Unmarshal(data, &doc); err != nil {
		p := Problem{File: filename, Message: strings.TrimPrefix(err.Error(), "toml: ")}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			p.Line, p.Column = de.Position()
		}
		return file, nil, Problems{p}
	}
	r := reader[T]{filename: filename, places: locate(data), schema: s, file: file}
	r.document(doc)
	return r.file, r.places, r.problems
}

// reader turns a decoded document into a T.
type reader[T any] struct {
	filename string
	schema   schema[T]
	places   places
	file     T
	problems Problems
}

func (r *reader[T]) document(doc map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		path := []string{name}
		s, ok := r.schema.find(name)
		if !ok {
			r.add(r.places.key(path), "unknown %s; valid sections are %s", describeTop(name, doc[name]), strings.Join(r.schema.names(), ", "))
			continue
		}
		table, ok := doc[name].(map[string]any)
		if !ok {
			r.add(r.places.key(path), "%s must be a section, [%s], and not %s", name, name, kind(doc[name]))
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(table)) {
			r.value(s, key, table[key])
		}
	}
}

func (r *reader[T]) value(s section[T], name string, value any) {
	path := []string{s.name, name}
	k, ok := s.find(name)
	if !ok {
		r.add(r.places.key(path), "unknown key %q in [%s]; valid keys are %s", name, s.name, strings.Join(s.names(), ", "))
		return
	}
	if want, got := kind(k.example), kind(value); want != got {
		r.add(r.places.value(path), "%s must be %s, such as %s = %s, and not %s", name, want, name, k.write(), got)
		return
	}
	if message := k.set(&r.file, value); message != "" {
		r.add(r.places.value(path), "%s", message)
	}
}

func (r *reader[T]) add(at unstable.Position, format string, args ...any) {
	r.problems = append(r.problems, Problem{File: r.filename, Line: at.Line, Column: at.Column, Message: fmt.Sprintf(format, args...)})
}

func describeTop(name string, value any) string {
	if _, ok := value.(map[string]any); ok {
		return fmt.Sprintf("section [%s]", name)
	}
	return fmt.Sprintf("key %q outside of a section", name)
}

// kind names the type of a TOML value with its article.
func kind(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	case time.Time, toml.LocalDate, toml.LocalDateTime, toml.LocalTime:
		return "a date or time"
	}
	return "something else"
}

// place is where a key and its value begin.
type place struct{ key, value unstable.Position }

// places of keys, by their full path joined with NUL, which no TOML key of ours has.
type places map[string]place

func (p places) key(path []string) unstable.Position   { return p[strings.Join(path, "\x00")].key }
func (p places) value(path []string) unstable.Position { return p[strings.Join(path, "\x00")].value }

// maxDepth of a key that a place is needed for. Deeper ones can only be part of a value of the wrong type, and a hostile
// file can have tens of thousands of parts in one key.
const maxDepth = 2

// locate finds the first place of each key of a document that is known to be valid.
func locate(data []byte) places {
	var p unstable.Parser
	p.Reset(data)
	found := places{}
	var table []string
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = found.note(&p, nil, e)
		case unstable.KeyValue:
			found.pair(&p, table, e)
		}
	}
	return found
}

// note records each part of e's dotted key below prefix, and returns the full path.
func (p places) note(parser *unstable.Parser, prefix []string, e *unstable.Node) []string {
	path := slices.Clone(prefix)
	for keys := e.Key(); keys.Next() && len(path) < maxDepth; {
		path = append(path, string(keys.Node().Data))
		joined := strings.Join(path, "\x00")
		if _, ok := p[joined]; ok {
			continue
		}
		at := parser.Shape(keys.Node().Raw).Start
		p[joined] = place{key: at, value: at}
	}
	return path
}

func (p places) pair(parser *unstable.Parser, prefix []string, e *unstable.Node) {
	if len(prefix) == maxDepth {
		return
	}
	path := p.note(parser, prefix, e)
	v := e.Value()
	joined := strings.Join(path, "\x00")
	if at := p[joined]; v.Raw.Length > 0 {
		at.value = parser.Shape(v.Raw).Start
		p[joined] = at
	}
	if v.Kind != unstable.InlineTable {
		return
	}
	for children := v.Children(); children.Next(); {
		p.pair(parser, path, children.Node())
	}
}
