package config

import "fmt"

// schema is everything that a kind of file may have; T is what it is read into.
type schema[T any] []section[T]

// section is a table of the file.
type section[T any] struct {
	name string
	keys []key[T]
}

// key is one setting. example is a right value, and by its type the only one allowed: a string, an int64 or a bool.
type key[T any] struct {
	name    string
	example any
	// set puts a value of example's type into f, and returns what is wrong with it, or "".
	set func(f *T, value any) string
}

func (k key[T]) write() string {
	if s, ok := k.example.(string); ok {
		return quote(s)
	}
	return fmt.Sprint(k.example)
}

func (s schema[T]) find(name string) (section[T], bool) {
	for _, sec := range s {
		if sec.name == name {
			return sec, true
		}
	}
	return section[T]{}, false
}

func (s schema[T]) names() []string {
	var names []string
	for _, sec := range s {
		names = append(names, "["+sec.name+"]")
	}
	return names
}

func (s section[T]) find(name string) (key[T], bool) {
	for _, k := range s.keys {
		if k.name == name {
			return k, true
		}
	}
	return key[T]{}, false
}

func (s section[T]) names() []string {
	var names []string
	for _, k := range s.keys {
		names = append(names, k.name)
	}
	return names
}
