#include "report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"

namespace awq::report {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// "" when every element of the document is closed in order, else what is wrong. Knows HTML's void elements
// and SVG's self-closing ones; stray '<' and unquoted attributes show up as unbalanced tags.
std::string imbalance(const std::string& html) {
  static const std::set<std::string> kVoid = {"meta", "br", "hr", "link", "img", "input"};
  std::vector<std::string> open;
  for (size_t i = html.find('<'); i != std::string::npos; i = html.find('<', i + 1)) {
    size_t end = i + 1;
    for (bool quoted = false; end < html.size() && (quoted || html[end] != '>'); ++end)
      if (html[end] == '"') quoted = !quoted;
    if (end >= html.size()) return "a tag does not end: " + html.substr(i, 40);
    const std::string tag = html.substr(i + 1, end - i - 1);
    if (tag.starts_with("!DOCTYPE")) continue;
    const bool closing = tag.starts_with("/");
    std::string name;
    for (size_t k = closing; k < tag.size() && std::isalnum(static_cast<unsigned char>(tag[k])); ++k)
      name += tag[k];
    if (name.empty()) return "not a tag: <" + tag + ">";
    if (tag.ends_with("/") || kVoid.contains(name)) continue;
    if (!closing) {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return "</" + name + "> closes <" + (open.empty() ? "nothing" : open.back()) + ">";
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> is never closed";
}

const std::string kHostile = "</td><script src=\"https://evil.example/x.js\">'&\"</script>";

Page full_page(const std::string& text) {
  Page page(text);
  page.heading(text).paragraph(text).code(text);
  page.table({text, {{text, false}, {text, true}}, {{text, text}, {text, text}}});
  page.bar_chart({text, text, {{text, 3, text}, {text, 0, text}}});
  page.line_chart({text, text, text, text, true, {{text, {{0, 1}, {1, 10}}}, {text, {}}}});
  page.scatter_chart({text, text, text, text, true, {{text, 1, 0.1, 0.02}, {text, 2, 0.05, 0.06}}});
  page.heat_map({text, text, text, {text, text}, {text, text, text}, {{1, 2, NAN}, {0, 0.5, 3}}});
  page.columns({{text, text}, {text, text}});
  page.begin_details(text).paragraph(text).end_details();
  page.footer(text);
  return page;
}

TEST(HtmlEscape, Table) {
  const struct {
    std::string in, out;
  } cases[] = {
      {"a < b && c > d", "a &lt; b &amp;&amp; c &gt; d"},
      {"\"it's\"", "&quot;it&#39;s&quot;"},
      {"line\n\ttab", "line\n\ttab"},
      {"grün 漢字 🙂", "grün 漢字 🙂"},
      {std::string("\0\x1b[31m\x7f", 7), "\xef\xbf\xbd\xef\xbf\xbd[31m\xef\xbf\xbd"},
      {"\xe6\xbc", "\xef\xbf\xbd\xef\xbf\xbd"},                                  // cut inside a character
      {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                                  // overlong '/'
      {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},                  // a surrogate
      {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},  // beyond U+10FFFF
      {"", ""},
  };
  for (const auto& c : cases) EXPECT_EQ(escape(c.in), c.out) << c.in;
}

TEST(HtmlPage, IsBalancedWhateverTheTextSays) {
  for (const std::string& text : {std::string("plain"), kHostile, std::string("\xff<\x01"), std::string()})
    EXPECT_EQ(imbalance(full_page(text).html()), "") << text;
}

TEST(HtmlPage, BalanceCheckSeesMistakes) {  // the check above must be able to fail
  EXPECT_EQ(imbalance("<p><b>x</b></p>"), "");
  EXPECT_NE(imbalance("<p><b>x</p></b>"), "");
  EXPECT_NE(imbalance("<p>x"), "");
  EXPECT_NE(imbalance("a < b"), "");
}

TEST(HtmlPage, LoadsNothing) {
  const std::string html = full_page("plain").html();
  for (const char* word : {"http://", "https://", "//", "<script", "<link", "<img", "<iframe",
                           " src=", " href=", "url(", "@import"})
    EXPECT_THAT(html, Not(HasSubstr(word)));
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
  const std::string hostile = full_page(kHostile).html();
  EXPECT_THAT(hostile, Not(HasSubstr("<script")));
  EXPECT_THAT(hostile, HasSubstr("&lt;script src=&quot;https://evil.example"));
}

TEST(HtmlPage, FollowsTheReadersColourScheme) {
  EXPECT_THAT(Page("t").html(), HasSubstr("prefers-color-scheme: dark"));
}

TEST(HtmlPage, TableHasHeadersAndNumericColumns) {
  Page page("t");
  page.table({"sizes", {{"method"}, {"KL", true}}, {{"awq", "0.12"}}});
  const std::string html = page.html();
  EXPECT_THAT(html, HasSubstr("<caption>sizes</caption>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"col\">method</th><th scope=\"col\" class=\"n\">KL</th>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">awq</th><td class=\"n\">0.12</td>"));
}

TEST(HtmlPage, RefusesMisuse) {
  EXPECT_THROW(Page("t").table({"", {{"a"}, {"b"}}, {{"only one"}}}), Error);
  EXPECT_THROW(Page("t").begin_details("a").begin_details("b"), Error);
  EXPECT_THROW(Page("t").end_details(), Error);
  EXPECT_THROW(Page("t").begin_details("a").html(), Error);
  EXPECT_THROW(Page("t").bar_chart({"", "", {{"a", -1, ""}}}), Error);
  EXPECT_THROW(Page("t").bar_chart({"", "", {{"a", std::nan(""), ""}}}), Error);
}

TEST(HtmlPage, ChartIdsAreUnique) {
  Page page("t");
  page.bar_chart({"a", "", {{"x", 1, ""}}}).bar_chart({"b", "", {{"x", 1, ""}}});
  const std::string html = page.html();
  EXPECT_THAT(html, HasSubstr("id=\"chart0-t\""));
  EXPECT_THAT(html, HasSubstr("id=\"chart1-t\""));
}

// The number after `attribute="` at or after position `from`.
double number_after(const std::string& text, const std::string& attribute, size_t from = 0) {
  const size_t at = text.find(attribute + "=\"", from);
  EXPECT_NE(at, std::string::npos) << attribute;
  return at == std::string::npos ? NAN : std::stod(text.substr(at + attribute.size() + 2));
}

TEST(BarChart, LengthsAreProportional) {
  const std::string out = svg(BarChart{"t", "d", {{"a", 4, "4"}, {"b", 1, "1"}, {"c", 0, "0"}}}, "id");
  const size_t first = out.find("<rect"), second = out.find("<rect", first + 1),
               third = out.find("<rect", second + 1);
  const double full = number_after(out, "width", first);
  EXPECT_GT(full, 100);
  EXPECT_NEAR(number_after(out, "width", second), full / 4, 0.1);
  EXPECT_EQ(number_after(out, "width", third), 0);
  EXPECT_THAT(out, HasSubstr("role=\"img\" aria-labelledby=\"id-t id-d\""));
}

TEST(BarChart, AllZeroDrawsNoBars) {
  EXPECT_EQ(number_after(svg(BarChart{"", "", {{"a", 0, ""}}}, "i"), "width"), 0);
}

std::vector<std::pair<double, double>> points_of(const std::string& out, size_t from = 0) {
  const size_t at = out.find("points=\"", from) + 8;
  const std::string list = out.substr(at, out.find('"', at) - at);
  std::vector<std::pair<double, double>> points;
  double x, y;
  for (size_t i = 0; i < list.size() && std::sscanf(list.c_str() + i, "%lf,%lf", &x, &y) == 2;
       i = list.find(' ', i) + 1) {
    points.emplace_back(x, y);
    if (list.find(' ', i) == std::string::npos) break;
  }
  return points;
}

TEST(LineChart, LogAxisSpacesDecadesEvenly) {
  const LineChart chart{"t", "", "layer", "error", true, {{"s", {{0, 0.013}, {1, 0.13}, {2, 1.3}}}}};
  const auto p = points_of(svg(chart, "i"));
  ASSERT_EQ(p.size(), 3u);
  EXPECT_NEAR(p[1].first - p[0].first, p[2].first - p[1].first, 0.2);
  EXPECT_NEAR(p[0].second - p[1].second, p[1].second - p[2].second, 0.2);
  EXPECT_GT(p[0].second, p[2].second);  // larger values stand higher
}

TEST(LineChart, AxesEndAtRoundNumbers) {
  const LineChart log{"t", "", "x", "y", true, {{"s", {{0, 0.013}, {10, 1.3}}}}};
  const std::string out = svg(log, "i");
  for (const char* tick : {">0.01<", ">0.02<", ">0.05<", ">0.1<", ">1<", ">2<", ">0<", ">10<"})
    EXPECT_THAT(out, HasSubstr(tick));
  EXPECT_THAT(out, Not(HasSubstr(">-0<")));
  const LineChart linear{"t", "", "x", "y", false, {{"s", {{0, 3}, {1, 7}}}}};
  EXPECT_THAT(svg(linear, "i"), HasSubstr(">0<"));  // bars and lines alike start at zero
}

TEST(LineChart, LeavesOutWhatCannotBeDrawn) {
  const double inf = std::numeric_limits<double>::infinity();
  const LineChart chart{"t", "",   "x",
                        "y", true, {{"s", {{0, 1}, {1, 0}, {2, -1}, {3, inf}, {4, NAN}, {5, 2}}}}};
  const std::string out = svg(chart, "i");
  EXPECT_EQ(points_of(out).size(), 2u);
  EXPECT_THAT(out, Not(HasSubstr("nan")));
  EXPECT_THAT(out, Not(HasSubstr("inf")));
}

TEST(LineChart, NoDataAndOnePointAreFine) {
  EXPECT_THAT(svg(LineChart{"t", "", "x", "y", false, {{"s", {}}}}, "i"), HasSubstr("no data"));
  for (const bool log_y : {false, true}) {
    const auto p = points_of(svg(LineChart{"t", "", "x", "y", log_y, {{"s", {{7, 3}}}}}, "i"));
    ASSERT_EQ(p.size(), 1u);
    EXPECT_TRUE(std::isfinite(p[0].first) && std::isfinite(p[0].second));
  }
}

TEST(ScatterChart, ParetoLineHoldsWhatNothingBeats) {
  EXPECT_EQ(pareto_line({{"a", 2, 5, 0}, {"b", 1, 9, 0}, {"c", 3, 6, 0}, {"d", 4, 1, 0}, {"e", 1, 10, 0}}), (std::vector<size_t>{1, 0, 3}));
  EXPECT_TRUE(pareto_line({}).empty());
}

TEST(ScatterChart, LabelsDoNotLieOnEachOther) {
  const std::string out = svg(ScatterChart{"t", "d", "x", "y", false, {{"one", 1, 1, 0}, {"two", 1, 1, 0}, {"far", 2, 9, 0}}}, "c");
  const auto y_of = [&](const std::string& label) {
    const size_t end = out.find(">" + label + "</text>"), at = out.rfind(" y=\"", end);
    return std::stod(out.substr(at + 4));
  };
  EXPECT_GE(y_of("two") - y_of("one"), 15);
  EXPECT_THROW(svg(ScatterChart{"t", "d", "x", "y", true, {{"a", 1, 0, 0}}}, "c"), Error);
}

TEST(HeatMap, EmptyCellsAreLeftOutAndTheRestIsShaded) {
  const std::string out = svg(HeatMap{"t", "d", "x", {"r"}, {"a", "b", "c"}, {{1, NAN, 100}}}, "c");
  EXPECT_THAT(out, HasSubstr("fill-opacity=\"0.08\"><title>r, a: 1</title>"));
  EXPECT_THAT(out, HasSubstr("fill-opacity=\"1.00\"><title>r, c: 100</title>"));
  EXPECT_THAT(out, Not(HasSubstr("r, b")));
  EXPECT_THROW(svg(HeatMap{"t", "d", "x", {"r"}, {"a"}, {{1, 2}}}, "c"), Error);
}

}  // namespace
}  // namespace awq::report
